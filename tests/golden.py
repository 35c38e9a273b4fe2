"""Texts that a person reads, compared with a committed file: `GOLDEN=write pytest FILE` writes it anew."""

import os
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "golden"
VARYING = {
    r"\b([0-9a-f]{12}|[0-9a-f]{32,64})\b": "DIGEST",
    r" {2,}": "  ",  # columns are as wide as what varies in them
    r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?": "TIME",
}


def assert_golden(name: str, text: str, **places: object) -> None:
    """Compare a text with the file of that name; `places`, such as a folder, stand there as their words."""
    for word, place in places.items():
        text = text.replace(str(place), word.upper())
    for pattern, word in VARYING.items():
        text = re.sub(pattern, word, text)
    file = FOLDER / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"if {file} is outdated, run with GOLDEN=write and review what changes"
