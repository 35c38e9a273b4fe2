"""`labels.csv`: a row per picture with its label, and whatever else is known of it."""

import csv
from pathlib import Path

from edge.errors import InputError
from train.readers.unusable import OnUnusable


def read_labels(file: Path, pictures: list[Path], on_unusable: OnUnusable) -> dict[str, dict[str, str]] | None:
    """The rows by picture; None if there is no such file.

    Args:
        on_unusable: told of rows that cannot be used, and of pictures without one.
    Raises:
        InputError: the file is damaged, or lacks the columns `image` and `label`.
    """
    if not file.exists():
        return None
    try:
        table = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines(), restkey="", restval="")
        rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); expected CSV in UTF-8") from error
    if not rows or not {"image", "label"} <= set(table.fieldnames or ()):
        raise InputError(f"{file} lacks rows with the columns image and label; expected e.g. image,label,group")
    names = {path.name for path in pictures}
    by_name: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row["image"]
        wrong = None
        if row["label"] not in ("good", "defective"):
            wrong = f"{file} labels {name} as {row['label']!r}; expected good or defective"
        elif name in by_name:
            wrong = f"{file} names {name} twice; leave one row"
        elif name not in names:
            wrong = f"{name} has a label and no picture; {file} and images/ must name the same files"
        if wrong:
            on_unusable(file, InputError(wrong))
        else:
            by_name[name] = row
    labelled = {row["image"] for row in rows}
    for path in pictures:
        if path.name not in labelled:
            on_unusable(
                path, InputError(f"{path.name} has no label; {file} and images/ must name the same files: add a row")
            )
    return by_name
