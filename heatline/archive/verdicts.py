"""What DEST holds: the plan, the verdicts of each bundle, and what a new bundle would change.

`pictures.parquet`, the plan, has a row per picture and a row group per part. The verdicts are one file per bundle and
part. A file is complete or absent, so those that are there say how far the work is.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from heatline.archive.source import Listed
from heatline.edge.errors import InputError, last_line
from heatline.edge.util.files import replacing, writing

PICTURES = "pictures.parquet"
PART_PICTURES = 256
PLAN_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("picture", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
REGION = pa.struct(
    [
        pa.field("box_xyxy", pa.list_(pa.int32(), 4)),
        pa.field("peak_xy", pa.list_(pa.int32(), 2)),
        pa.field("area_px", pa.int64()),
        pa.field("score", pa.float32()),
    ]
)
"""A region of `heatline.edge.wire.events`, without its contour."""
SCHEMA = pa.schema(
    [
        *PLAN_SCHEMA,
        pa.field("content", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("score_threshold", pa.float64(), nullable=False),
        pa.field("evidence_threshold", pa.float64(), nullable=False),
        pa.field("regions", pa.list_(REGION), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
        pa.field("bundle_name", pa.string(), nullable=False),
        pa.field("bundle_version", pa.string(), nullable=False),
    ]
)
"""A row per picture. docs/archive.md describes the columns. The folder's name adds `bundle`."""
COMPARED = [*PLAN_SCHEMA.names, "content", "verdict", "score", "score_threshold"]
Row = dict[str, Any]
"""A row, as Python values."""
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """The pictures of a DEST, in parts."""

    dest: Path
    file: pq.ParquetFile
    source: str

    @property
    def pictures(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def parts(self) -> int:
        return int(self.file.num_row_groups)

    def size_of(self, part: int) -> int:
        """Return the number of pictures of a part."""
        return int(self.file.metadata.row_group(part).num_rows)

    def rows_of(self, part: int) -> list[Row]:
        return list(self.file.read_row_group(part).to_pylist())


def read_plan(dest: Path) -> Plan | None:
    """Return the plan of a DEST; None: it has none."""
    try:
        file = pq.ParquetFile(dest / PICTURES)
        return Plan(dest, file, file.schema_arrow.metadata[b"source"].decode())
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise InputError(f"{dest / PICTURES} is not heatline's ({last_line(error)}); name another --out") from error


def write_plan(dest: Path, source: Path, listed: Sequence[Listed], part_pictures: int) -> Plan:
    """Write the plan of a new DEST, and return it."""
    rows = zip(*((number, *each) for number, each in enumerate(listed)), strict=True)
    columns = [pa.array(column, field.type) for column, field in zip(rows, PLAN_SCHEMA, strict=True)]
    table = pa.table(columns, PLAN_SCHEMA.with_metadata({"source": str(source)}))
    _write(dest / PICTURES, table, part_pictures)
    return Plan(dest, pq.ParquetFile(dest / PICTURES), str(source))


def file_of(key: str, part: int) -> str:
    """Return the name of a part's verdicts in DEST, by a bundle and how it inspects: see `key_of`."""
    return f"verdicts/bundle={key}/part-{part:06d}.parquet"


def write_verdicts(dest: Path, key: str, part: int, verdicts: pa.Table) -> None:
    """Write a part's verdicts."""
    _write(dest / file_of(key, part), verdicts)


def missing_parts(plan: Plan, key: str) -> list[int]:
    """Return the parts without verdicts."""
    return [part for part in range(plan.parts) if not (plan.dest / file_of(key, part)).exists()]


def read_verdicts(plan: Plan, key: str) -> pa.Table:
    """Return the columns `COMPARED` of all verdicts, and check that each picture of the plan has exactly one."""
    tables, first = list[pa.Table](), 0
    for part in range(plan.parts):
        path, end = plan.dest / file_of(key, part), first + plan.size_of(part)
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(COMPARED)
            if table["number"].to_pylist() != list(range(first, end)):
                raise ValueError("it holds other pictures than the plan")
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path} does not hold the verdicts of its pictures ({last_line(error)}); delete it, "
                "and call heatline archive inspect again"
            ) from error
        tables.append(table)
        first = end
    return pa.concat_tables(tables)


def count_verdicts(verdicts: pa.Table) -> dict[str, int]:
    """Return how often each verdict came."""
    found = _column(verdicts, "verdict")
    return {name.lower(): int((found == name).sum()) for name in ("GOOD", "DEFECT", "NO_VERDICT")}


def compare(old: pa.Table, new: pa.Table, most: int) -> tuple[dict[str, Any], list[Row]]:
    """Count what a new bundle changes, and return it with the worst flips.

    A flip is a file to which the bundles give two verdicts, NO_VERDICT included. New escapes are the worst flips, then
    come all others, and last those to the verdict that the label calls right; each by how far the margin moved. A file
    that changed between the runs, or could be read in one only, is not compared.
    """
    was, now, label = _column(old, "verdict"), _column(new, "verdict"), _column(new, "label")
    same = _column(old, "content") == _column(new, "content")
    flips = same & (was != now)
    judged = same & ((was != "NO_VERDICT") | (now != "NO_VERDICT"))
    counts = {
        "compared": same,
        "other_files": ~same,
        "flips": flips,
        "defect_to_good": flips & (was == "DEFECT") & (now == "GOOD"),
        "good_to_defect": flips & (was == "GOOD") & (now == "DEFECT"),
        "lost": flips & (now == "NO_VERDICT"),
        "gained": flips & (was == "NO_VERDICT"),
    }
    changes: dict[str, Any] = {name: int(mask.sum()) for name, mask in counts.items()}
    changes["escapes"] = _mistakes(judged & (label == "defective"), was == "GOOD", now == "GOOD")
    changes["false_rejects"] = _mistakes(judged & (label == "good"), was == "DEFECT", now == "DEFECT")
    escapes = (label == "defective") & (now == "GOOD")
    right = ((label == "defective") & (now == "DEFECT")) | ((label == "good") & (now == "GOOD"))
    margins = [np.asarray(_column(each, "score") - _column(each, "score_threshold"), np.float64) for each in (old, new)]
    moved = np.nan_to_num(np.abs(margins[1] - margins[0]), nan=-1.0)
    found = np.flatnonzero(flips)
    order = found[np.lexsort((-moved[found], np.where(escapes, 0, np.where(right, 2, 1))[found]))][:most]
    chosen = new.take(pa.array(order)).select(["picture", "group", "label", "verdict"]).to_pylist()
    about = [{"was": was[index], "moved": None if moved[index] < 0 else float(moved[index])} for index in order]
    return changes, [row | more for row, more in zip(chosen, about, strict=True)]


def _mistakes(labelled: Mask, was_wrong: Mask, is_wrong: Mask) -> dict[str, int] | None:
    """Count a kind of mistake of both bundles in the pictures with a label; None: there is none."""
    masks = {
        "pictures": labelled,
        "old": labelled & was_wrong,
        "new": labelled & is_wrong,
        "added": labelled & is_wrong & ~was_wrong,
        "removed": labelled & was_wrong & ~is_wrong,
    }
    return {name: int(mask.sum()) for name, mask in masks.items()} if labelled.any() else None


def _column(verdicts: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(verdicts[name].to_numpy())


def _write(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write a file that is complete or absent."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_size, compression="zstd")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, unique=True) as new:
            new.write_bytes(buffer.getvalue())
