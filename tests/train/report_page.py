"""Parse a report's page for tests: its elements with their texts, and the files that it loads."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Element:
    tag: str
    known: dict[str, str | None]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text, with that of the elements in it."""
        return " ".join("".join(self.texts).split())

    @property
    def at(self) -> int:
        """First position of the slider at which a listed frame or a picture changes its side."""
        return int(self.known["data-at"] or "")


class Page(HTMLParser):
    """A parsed page, without handlers in attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()

    @property
    def elements(self) -> list[tuple[str, dict[str, str | None]]]:
        return [(part.tag, part.known) for part in self.parts]

    @property
    def loads(self) -> list[str]:
        """The files and addresses that the page names."""
        names = ("src", "href", "srcset", "data", "action", "poster")
        values = [part.known[name] or "" for part in self.parts for name in names if name in part.known]
        return [value for value in values if not value.startswith("#")]

    def having(self, attribute: str, value: str | None = None) -> list[Element]:
        """Return the elements with an attribute of this value; None: of any."""
        return [part for part in self.parts if attribute in part.known and value in (None, part.known[attribute])]

    def now(self, name: str) -> set[str]:
        """Return the texts that are shown of a number that follows the slider."""
        return {part.text for part in self.having("data-text", name)}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") for name, _ in attrs), "a handler in an attribute"
        self._open.append(Element(tag, dict(attrs)))
        self.parts.append(self._open[-1])

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop().tag != tag:  # elements without an end, such as pictures
            pass

    def handle_data(self, data: str) -> None:
        for part in self._open:
            part.texts.append(data)
