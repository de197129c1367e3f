// Keeps a page current while it is seen: the server sends the parts that have changed.
// Without this file everything works; a page then shows what was true when it was loaded.

const SAY_EVERY_MS = 5000;

// --- Parts of a page

// Make *old* what *new* is, and leave alone what is the same: focus, selection and what was opened
// stay where they are.
function become(old, now) {
  if (now.dataset?.same !== undefined) {
    // A row that is here already: the server sends its id alone.
    old.classList.remove("changed");
    return;
  }
  if (old.isEqualNode(now)) return;
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName || old.id !== now.id) {
    old.replaceWith(now);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = now.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  becomeInside(old, now);
}

function becomeInside(old, now) {
  const byId = new Map([...old.children].filter((one) => one.id).map((one) => [one.id, one]));
  let next = old.firstChild;
  for (const wanted of [...now.childNodes]) {
    const known = wanted.id && byId.get(wanted.id);
    if (known) {
      if (known === next) next = next.nextSibling;
      else old.insertBefore(known, next);
      become(known, wanted);
    } else if (wanted.id || !next || (next.id && byId.has(next.id))) {
      old.insertBefore(wanted, next);
      if (wanted.id) wanted.classList.add("changed");
    } else {
      const following = next.nextSibling;
      become(next, wanted);
      next = following;
    }
  }
  while (next) {
    const following = next.nextSibling;
    next.remove();
    next = following;
  }
}

function show(name, html) {
  const part = document.getElementById(name);
  if (!part) return;
  const now = part.cloneNode(false);
  now.innerHTML = html;
  addCopyButtons(now);
  become(part, now);
}

// --- Texts that can be copied

function addCopyButtons(root) {
  if (!navigator.clipboard) return;
  for (const one of root.querySelectorAll("[data-copied]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "other small";
    button.dataset.copy = "";
    button.textContent = "Copy";
    one.append(button);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

// --- The stream

class Live {
  constructor(bar) {
    this.bar = bar;
    this.words = bar.querySelector("[data-live-text]");
    this.button = bar.querySelector("[data-live-button]");
    this.voice = document.querySelector("[data-say]");
    this.isPaused = false;
    this.hasEnded = false;
    this.saidAt = 0;
    this.button.addEventListener("click", () => this.turn());
    document.addEventListener("visibilitychange", () => this.follow());
    // A page that is left holds no connection, and is current again when it is returned to.
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.follow(); });
    bar.hidden = false;
    this.follow();
  }

  turn() {
    this.isPaused = !this.isPaused;
    this.follow();
  }

  follow() {
    this.close();
    if (this.hasEnded) return;
    this.button.textContent = this.isPaused ? "Go on with updates" : "Pause updates";
    if (this.isPaused) {
      this.tell("This page does not change now.");
    } else if (!document.hidden) {
      this.open();
    }
  }

  open() {
    this.source = new EventSource(location.href.split("#")[0]);
    this.source.addEventListener("open", () => this.tell("This page is live."));
    this.source.addEventListener("part", (event) => {
      const { name, html } = JSON.parse(event.data);
      show(name, html);
    });
    this.source.addEventListener("say", (event) => this.say(JSON.parse(event.data)));
    this.source.addEventListener("ended", () => this.end("Your session has ended: sign in again."));
    this.source.addEventListener("error", () => {
      if (this.source.readyState === EventSource.CLOSED) {
        this.end("This page is not live: load it again.");
      } else {
        this.tell("The connection is lost, and is tried again.");
      }
    });
  }

  close() {
    if (this.source) this.source.close();
    this.source = null;
  }

  end(words) {
    this.hasEnded = true;
    this.close();
    this.button.hidden = true;
    this.tell(words);
  }

  tell(words) {
    this.words.textContent = words;
  }

  // The last of several sentences, politely and not too often.
  say(sentence) {
    clearTimeout(this.saying);
    const wait = Math.max(0, this.saidAt + SAY_EVERY_MS - Date.now());
    this.saying = setTimeout(() => {
      this.saidAt = Date.now();
      this.voice.textContent = sentence;
    }, wait);
  }
}

addCopyButtons(document);
const bar = document.querySelector("[data-live-state]");
if (bar) new Live(bar);
