"""What a person sees of a page of HTML, and what a program finds in it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The words of a page, its elements, and where its forms and links lead."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.fields = set(), {}
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
        if tag == "input":
            self.fields[attributes.get("name")] = attributes.get("value", "")

    def handle_data(self, data):
        if self._open != "style":
            self.words += data
        if self._open == "button":
            self.buttons += [data] if data.strip() else []
