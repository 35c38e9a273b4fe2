"""The verdicts of DEST: one Parquet file per bundle and part, `verdicts/bundle=DIGEST/part-000000.parquet`."""

import io
import re
from collections.abc import Sequence
from typing import Any, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from heatline.edge.archive.storage import Storage
from heatline.edge.errors import InputError
from heatline.edge.wire.events import Region, Verdict

FOLDER = "verdicts"
METADATA_KEY = b"heatline"
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
        pa.field("number", pa.int64(), nullable=False),
        pa.field("picture", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("label", pa.string()),
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
"""A row per picture. docs/archive.md describes the columns. The folder's name adds `bundle`, the digest."""

_NAME = re.compile(r"part-(\d{6,})\.parquet")


class Row(TypedDict):
    """A row, as Python values."""

    number: int
    picture: str
    group: str
    label: str | None
    content: str | None
    width: int | None
    height: int | None
    verdict: Verdict
    reason: str | None
    detail: str | None
    score: float | None
    score_threshold: float
    evidence_threshold: float
    regions: list[dict[str, Any]]
    precision: str
    bundle_name: str
    bundle_version: str


class WorkerNote(msgspec.Struct, frozen=True, kw_only=True):
    """The worker that wrote a file, as JSON in the file's metadata under the key `heatline`."""

    host: str
    processor: str
    heatline: str
    openvino: str
    golden: dict[str, float]
    """The largest difference of each output on the golden tiles, as a share of its scale."""


def folder_of(digest: str) -> str:
    """Return the folder of a bundle's files in DEST."""
    return f"{FOLDER}/bundle={digest}"


def file_of(digest: str, part: int) -> str:
    """Return the file of a part's verdicts by a bundle in DEST."""
    return f"{folder_of(digest)}/part-{part:06d}.parquet"


def region_row(region: Region) -> dict[str, Any]:
    """Return a region as a value of the column `regions`."""
    return {
        "box_xyxy": region.box_xyxy,
        "peak_xy": region.peak_xy,
        "area_px": region.area_px,
        "score": region.score,
    }


def encode(rows: Sequence[Row], note: WorkerNote) -> bytes:
    """Return the bytes of a part's file."""
    schema = SCHEMA.with_metadata({METADATA_KEY: msgspec.json.encode(note)})
    table = pa.Table.from_pylist(list(rows), schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def finished_parts(dest: Storage, digest: str) -> set[int]:
    """Return the parts that have a file: each is complete."""
    names = (_NAME.fullmatch(info.base_name) for info in dest.entries(folder_of(digest)))
    return {int(name[1]) for name in names if name}


def read_part(dest: Storage, digest: str, part: int) -> tuple[pa.Table, WorkerNote]:
    """Read a part's verdicts by a bundle, and who wrote them.

    Raises:
        FileNotFoundError: there is no file.
        InputError: it is damaged, or none of heatline's.
        StorageError: DEST does not answer.
    """
    name = file_of(digest, part)
    data = dest.read(name)
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        return file.read().select(SCHEMA.names), _note(file)
    except (pa.ArrowException, OSError, KeyError, TypeError, msgspec.DecodeError) as error:  # OSError: damaged pages
        raise InputError(
            f"{dest.path(name)} is damaged, or no file of verdicts; delete it, and call heatline archive inspect again"
        ) from error


def _note(file: pq.ParquetFile) -> WorkerNote:
    return msgspec.json.decode(file.schema_arrow.metadata[METADATA_KEY], type=WorkerNote)
