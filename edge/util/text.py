"""Makes text safe to encode and to show, and formats counts with their nouns, and the time."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec


def utc_now() -> str:
    """Return the time as files state it, in UTC: the earlier of two is the lesser string."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utf8_safe(text: str) -> str:
    """Replace what UTF-8 cannot encode by `?`: a file's name may hold bytes that are not text."""
    return text.encode("utf-8", "replace").decode()


def encode_json(value: object, order: Literal["deterministic"] | None = None) -> bytes:
    """Encode as JSON in UTF-8, with `?` for what UTF-8 cannot encode, as in file names.

    >>> encode_json({"file": "caf\\udce9.png"})
    b'{"file":"caf?.png"}'
    """
    try:
        return msgspec.json.encode(value, order=order)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=msgspec.json.decode)  # of `msgspec.Raw`, which holds JSON
        text = utf8_safe(json.dumps(plain, ensure_ascii=False))
        return msgspec.json.encode(json.loads(text), order=order)


def on_one_line(text: str) -> str:
    """Escape line breaks and control characters, which untrusted text could inject into a log or a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def spreadsheet_cell(cell: str | float | None) -> str | float | None:
    """Return a cell of a CSV file. A text stays on one line, and one that a spreadsheet would compute gets a quote.

    >>> spreadsheet_cell("=HYPERLINK(1)"), spreadsheet_cell("a\\nb.png"), spreadsheet_cell(-1.5)
    ("'=HYPERLINK(1)", 'a\\\\nb.png', -1.5)
    """
    if not isinstance(cell, str):
        return cell
    quote = "'" if cell.startswith(("=", "+", "-", "@")) else ""
    return quote + on_one_line(cell)


def format_count(count: int, noun: str, grouping: str = "") -> str:
    """Return a count and its noun, which ends in `s` unless the count is 1.

    >>> format_count(1, "good frame"), format_count(0, "tile"), format_count(1200, "tile", ",")
    ('1 good frame', '0 tiles', '1,200 tiles')
    """
    return f"{count:{grouping}} {noun}{'' if count == 1 else 's'}"


def describe_range(low: float, high: float | None) -> str:
    """Describe the range from `low` to `high`; None: there is no upper limit.

    >>> describe_range(224, 224), describe_range(60.04, 140.0), describe_range(0.0512, None)
    ('224', '60 to 140', '0.0512 or more')
    """
    texts = [str(each) if isinstance(each, int) else f"{each:.3g}" for each in (low, high) if each is not None]
    if high is None:
        return f"{texts[0]} or more"
    return texts[0] if low == high else " to ".join(texts)


def is_are(count: int) -> str:
    """Return the verb for a count.

    >>> is_are(1), is_are(2)
    ('is', 'are')
    """
    return "is" if count == 1 else "are"


def list_some(names: Sequence[str], most: int) -> str:
    """List names, and the number of those beyond the first `most`.

    >>> list_some(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
