"""What a person sees of a page of HTML, and what a program finds in it."""

from html.parser import HTMLParser

from service.pages.console.visits import COOKIE


class Page(HTMLParser):
    """The words of a page, its elements, and where its forms and links lead."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.fields, self.labels = set(), {}, []
        self.words, self.elements, self.forms, self.links, self.buttons = "", [], [], [], []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._open = tag
        self.elements.append(tag)
        attributes = dict(attrs)
        if tag == "form":
            self.forms.append((attributes["method"], attributes.get("action")))
        if tag == "a":
            self.links.append(attributes["href"])
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if "aria-label" in attributes:
            self.labels.append(attributes["aria-label"])
        if tag == "input":
            self.fields[attributes.get("name")] = attributes.get("value", "")

    def handle_data(self, data):
        if self._open != "style":
            self.words += data
        if self._open == "button":
            self.buttons += [data] if data.strip() else []


class ConsoleBrowser:
    """A browser in front of the console: it keeps cookies, and says where its forms come from."""

    def __init__(self, client):
        self.client = client
        self.host = f"http://{client.host}:{client.port}"
        self.cookie = None

    async def get(self, path, **headers):
        """The page at *path* of the console, and its answer."""
        return await self._ask("GET", path, headers)

    async def post(self, path, form=None, **headers):
        """The answer to a form of a page of the console."""
        own = {"Origin": self.host, "Sec-Fetch-Site": "same-origin"}
        given = {name.replace("_", "-"): of for name, of in headers.items()}
        kept = {name: of for name, of in {**own, **given}.items() if of is not None}
        return await self._ask("POST", path, kept, form)

    async def _ask(self, method, path, headers, form=None):
        if self.cookie:
            headers = {**headers, "Cookie": f"{COOKIE}={self.cookie}"}
        answer = await self.client.request(
            method, f"/console{path}", headers=headers, data=form, allow_redirects=False
        )
        if COOKIE in answer.cookies:
            self.cookie = answer.cookies[COOKIE].value
        return Page(await answer.text()), answer

    async def sign_in(self, key):
        """Sign in with the key of an account."""
        _, answer = await self.post("/sign-in", {"key": key})
        assert 303 == answer.status
        return self
