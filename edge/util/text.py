"""Makes text safe to encode and to show, and formats counts with their nouns."""


def utf8_safe(text: str) -> str:
    """Replace what UTF-8 cannot encode by `?`: a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def on_one_line(text: str) -> str:
    """Escape line breaks and control characters, which untrusted text could inject into a log or a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def format_count(count: int, noun: str, grouping: str = "") -> str:
    """Return a count and its noun, which ends in `s` unless the count is 1.

    Args:
        grouping: separator of thousands; "," or nothing.

    >>> format_count(1, "good frame"), format_count(0, "tile"), format_count(1200, "tile", ",")
    ('1 good frame', '0 tiles', '1,200 tiles')
    """
    return f"{count:{grouping}} {noun}{'' if count == 1 else 's'}"


def is_are(count: int) -> str:
    """Return the verb for a count.

    >>> is_are(1), is_are(2)
    ('is', 'are')
    """
    return "is" if count == 1 else "are"
