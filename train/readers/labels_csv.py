"""`labels.csv`: a row per picture with its label, and any further columns."""

import csv
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.train.readers.unusable import OnUnusable

MOST_SHOWN = 60
"""How many characters of a header are shown."""


def read_labels(file: Path, pictures: list[Path], on_unusable: OnUnusable) -> dict[str, dict[str, str]] | None:
    """Read the rows by picture name; return None if there is no such file.

    Args:
        on_unusable: called for each row that cannot be used, and for each picture without a row.
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
        header = ",".join(table.fieldnames or ())
        came = "has no rows" if not rows else f"begins with {header[:MOST_SHOWN]!r}"
        raise InputError(
            f"{file} {came}, expected rows with the columns image and label, separated by commas, e.g. "
            "image,label,group"
        )
    names = {path.name for path in pictures}
    by_name: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row["image"]
        problem = None
        if row["label"] not in ("good", "defective"):
            problem = f"{file} labels {name} as {row['label']!r}; expected good or defective"
        elif name in by_name:
            problem = f"{file} names {name} twice; leave one row"
        elif name not in names:
            problem = f"{name} has a label and no picture; {file} and images/ must name the same files"
        if problem:
            on_unusable(file, InputError(problem))
        else:
            by_name[name] = row
    labelled = {row["image"] for row in rows}
    for path in pictures:
        if path.name not in labelled:
            on_unusable(
                path, InputError(f"{path.name} has no label; {file} and images/ must name the same files: add a row")
            )
    return by_name
