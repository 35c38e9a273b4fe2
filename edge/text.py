"""Text that can be said in UTF-8."""


def sayable(text: str) -> str:
    """Text with `?` for what UTF-8 cannot say: a file's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()
