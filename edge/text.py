"""Text that can be said in UTF-8, and shown."""


def sayable(text: str) -> str:
    """Text with `?` for what UTF-8 cannot say: a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def on_one_line(text: str) -> str:
    """Text that a log shows and does not obey: what strangers send may hold line breaks and a terminal's commands."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
