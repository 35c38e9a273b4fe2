"""The verdicts of DEST: one Parquet file per bundle and part, `verdicts/bundle=DIGEST/part-000000.parquet`."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from edge.archive.storage import Storage
from edge.errors import InputError
from edge.wire.events import Region, Verdict

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
"""A region of `edge.wire.events`, without its contour."""
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
PARTITIONING = ds.partitioning(pa.schema([("bundle", pa.string())]), flavor="hive")

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
    names = (_NAME.fullmatch(info.base_name) for info in dest.list(folder_of(digest)))
    return {int(name[1]) for name in names if name}


def open_dataset(dest: Storage, digests: Iterable[str]) -> ds.Dataset:
    """Return the verdicts by some bundles as a data set, with the column `bundle`. Call it once there are some."""
    files = [dest.path(file_of(digest, part)) for digest in digests for part in sorted(finished_parts(dest, digest))]
    return ds.dataset(
        files,
        schema=pa.schema([*SCHEMA, pa.field("bundle", pa.string())]),
        format="parquet",
        filesystem=dest.files,
        partitioning=PARTITIONING,
        partition_base_dir=dest.path(FOLDER),
    )


def read_part(dest: Storage, digest: str, part: int) -> tuple[pa.Table, WorkerNote]:
    """Read a part's verdicts by a bundle, and who wrote them.

    Raises:
        FileNotFoundError: there is no file.
        InputError: it is no file of heatline's.
    """
    name = file_of(digest, part)
    try:
        file = pq.ParquetFile(io.BytesIO(dest.read(name)))
        return file.read(), _note(file)
    except (pa.ArrowException, KeyError, TypeError, msgspec.DecodeError) as error:
        raise InputError(
            f"{dest.path(name)} is no file of verdicts; delete it, and call heatline archive inspect again"
        ) from error


def read_notes(dest: Storage, digest: str) -> Iterator[tuple[int, WorkerNote]]:
    """Yield each part with the worker that wrote it, in order."""
    for part in sorted(finished_parts(dest, digest)):
        with pq.ParquetFile(dest.path(file_of(digest, part)), filesystem=dest.files) as file:
            yield part, _note(file)


def _note(file: pq.ParquetFile) -> WorkerNote:
    return msgspec.json.decode(file.schema_arrow.metadata[METADATA_KEY], type=WorkerNote)
