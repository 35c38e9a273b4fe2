"""Text that can be said in UTF-8 and shown, and counts with their nouns."""


def utf8_safe(text: str) -> str:
    """Text with `?` for what UTF-8 cannot say: a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def on_one_line(text: str) -> str:
    """Text that a log shows and does not obey: what strangers send may hold line breaks and a terminal's commands."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def format_count(count: int, noun: str, grouping: str = "") -> str:
    """A count and its noun, which ends in `s` unless the count is 1.

    Args:
        grouping: between thousands; "," or nothing.

    >>> format_count(1, "good frame"), format_count(0, "tile"), format_count(1200, "tile", ",")
    ('1 good frame', '0 tiles', '1,200 tiles')
    """
    return f"{count:{grouping}} {noun}{'' if count == 1 else 's'}"


def is_are(count: int) -> str:
    """The verb of so many things.

    >>> is_are(1), is_are(2)
    ('is', 'are')
    """
    return "is" if count == 1 else "are"
