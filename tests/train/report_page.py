"""Parse a report's page for tests: its cells, the files that it loads, and the items that follow its sliders."""

import json
from html.parser import HTMLParser
from typing import Any, NamedTuple


class Item(NamedTuple):
    """A listed frame or a picture that follows the slider."""

    tag: str
    text: str
    side: str
    at: int
    is_hidden: bool


class Page(HTMLParser):
    """A parsed page: tags, cells of tables, loaded files, and items that follow the sliders."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.is_in_cell = False
        self.loads: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.positions: list[dict[str, Any]] = []
        self.items: list[Item] = []
        self.now: dict[str, list[str]] = {}
        self._item: list[tuple[str, str, int, bool]] = []
        self._text: list[str] = []
        self._name = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.elements.append((tag, known))
        if tag in ("td", "th"):
            self.is_in_cell = True
            self.cells.append("")
        if "data-positions" in known:
            self.positions.append(json.loads(known["data-positions"] or ""))
        if "data-at" in known:
            self._item = [(tag, known["data-side"] or "", int(known["data-at"] or ""), "hidden" in known)]
            self._text = []
        if "data-text" in known:
            self._name = known["data-text"] or ""
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster") and not (value or "").startswith("#"):
                self.loads.append(value or "")
            assert not name.startswith("on"), "a handler in an attribute"

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")
        if self._item and self._item[0][0] == tag:
            of, side, at, is_hidden = self._item.pop()
            self.items.append(Item(of, " ".join("".join(self._text).split()), side, at, is_hidden))
        self._name = "" if tag == "span" else self._name

    def handle_data(self, data: str) -> None:
        if self.is_in_cell:
            self.cells[-1] += data
        if self._item:
            self._text.append(data)
        if self._name:
            self.now.setdefault(self._name, []).append(data)
