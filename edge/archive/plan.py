"""The files of DEST: the plan, which pictures are inspected, in which parts, and by which bundles; and the verdicts.

`pictures.parquet` has a row per picture and a row group per part; it is written once. `archive.json` is written after
it: a DEST with this file has a complete plan. The verdicts are one file per bundle and part,
`verdicts/bundle=DIGEST/part-000000.parquet`.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from heatline.edge.archive.storage import Storage, is_uri
from heatline.edge.errors import InputError, StorageError, last_line

ARCHIVE, PICTURES = "archive.json", "pictures.parquet"
FORMAT = 1
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
"""A row per picture. docs/archive.md describes the columns. The folder's name adds `bundle`, the digest."""
Row = dict[str, Any]
"""A row, as Python values."""
_NAME = re.compile(r"part-(\d{6,})\.parquet")


class UsedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle with which pictures were inspected, and how."""

    name: str
    version: str
    engine: str
    precision: str
    """The requested one; the column `precision` has the one that a picture was inspected in."""
    score_threshold: float
    evidence_threshold: float


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `archive.json`."""

    format: int
    source: str
    """SOURCE as on the command line, without passwords."""
    folder: str
    """The folder that relative paths of pictures start from, in SOURCE's file system."""
    part_pictures: int
    pictures: int
    bundles: dict[str, UsedBundle]
    """By digest."""


@dataclass(frozen=True)
class Plan:
    """The plan of a DEST."""

    dest: Storage
    archive: Archive

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.archive.pictures // self.archive.part_pictures)

    def is_of(self, archive: Archive) -> bool:
        """Return whether it plans the same pictures; bundles may have been added meanwhile."""
        return msgspec.structs.replace(self.archive, bundles=archive.bundles) == archive

    def part_size(self, part: int) -> int:
        """Return the number of pictures of a part."""
        return min(self.archive.part_pictures, self.archive.pictures - part * self.archive.part_pictures)

    def read_part(self, part: int) -> pa.Table:
        """Return the rows of a part.

        Raises:
            StorageError: the file is missing or damaged, or DEST does not answer.
        """
        try:
            return self._file.read_row_group(part)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise StorageError(
                f"{self.dest.path(PICTURES)} cannot be read ({last_line(error)}); put it back and call the same "
                "command again, or name another --out"
            ) from error

    def name_of_part(self, part: int) -> str:
        """Return the first and the last picture of a part, for messages.

        Raises:
            StorageError: as `read_part`.
        """
        pictures = self.read_part(part)["picture"].to_pylist()
        return f"{pictures[0]} to {pictures[-1]}"

    def with_bundles(self, bundles: dict[str, UsedBundle]) -> "Plan":
        """Add bundles to `archive.json`.

        Raises:
            InputError: one of them was used with another engine or precision before.
        """
        for digest, used in bundles.items():
            before = self.archive.bundles.get(digest, used)
            if before != used:
                raise InputError(
                    f"{self.dest.path(ARCHIVE)} has verdicts by {used.name} {used.version} with {before.engine} in "
                    f"{before.precision}, and {used.engine} in {used.precision} came; name another --out, or use the "
                    "same"
                )
        archive = msgspec.structs.replace(self.archive, bundles={**self.archive.bundles, **bundles})
        if archive != self.archive:
            _write(self.dest, archive)
        return Plan(self.dest, archive)

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.dest.path(PICTURES), filesystem=self.dest.files)


class Pictures:
    """Where the pictures of a plan are.

    Args:
        source: SOURCE, with its password.
        folder: as in `archive.json`.
    """

    def __init__(self, source: str, folder: str) -> None:
        self.folder = Storage(Storage.at(source).files, folder)

    def place(self, picture: str) -> tuple[Storage, str]:
        """Return the storage of a picture, and its name in it."""
        if not is_uri(picture):
            return self.folder, picture
        parts = urlsplit(picture)
        return _bucket(parts._replace(path="/").geturl()), unquote(parts.path).lstrip("/")


@lru_cache(maxsize=64)
def _bucket(address: str) -> Storage:
    return Storage.at(address)


def read_plan(dest: Storage) -> Plan | None:
    """Return the plan of a DEST; None: it has none.

    Raises:
        InputError: it is of another version, or none of heatline's.
    """
    try:
        archive = msgspec.json.decode(dest.read(ARCHIVE), type=Archive)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InputError(f"{dest.path(ARCHIVE)} is not heatline's ({error}); name another --out") from error
    if archive.format != FORMAT:
        raise InputError(
            f"{dest.path(ARCHIVE)} has format {archive.format}, this version of heatline reads {FORMAT}; use the "
            "version that wrote it, or name another --out"
        )
    return Plan(dest, archive)


def write_plan(
    dest: Storage,
    source: str,
    folder: str,
    pictures: Iterable[tuple[str, str, str | None]],
    part_pictures: int = PART_PICTURES,
) -> Plan:
    """Write the plan of a new DEST.

    Args:
        pictures: path, group and label of each, in order.
    """
    rows = [(number, *row) for number, row in enumerate(pictures)]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), PLAN_SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, PLAN_SCHEMA), buffer, row_group_size=part_pictures, compression="zstd")
    dest.write(PICTURES, buffer.getvalue())
    archive = Archive(
        format=FORMAT, source=source, folder=folder, part_pictures=part_pictures, pictures=len(rows), bundles={}
    )
    _write(dest, archive)
    return Plan(dest, archive)


def _write(dest: Storage, archive: Archive) -> None:
    dest.write(ARCHIVE, msgspec.json.format(msgspec.json.encode(archive), indent=2) + b"\n")


# The verdicts.


def file_of(digest: str, part: int) -> str:
    """Return the file of a part's verdicts by a bundle in DEST."""
    return f"{_folder_of(digest)}/part-{part:06d}.parquet"


def encode(rows: Sequence[Row]) -> bytes:
    """Return the bytes of a part's file."""
    table = pa.Table.from_pylist(list(rows), SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def finished_parts(dest: Storage, digest: str) -> set[int]:
    """Return the parts that have a file: each is complete."""
    names = (_NAME.fullmatch(info.base_name) for info in dest.entries(_folder_of(digest)))
    return {int(name[1]) for name in names if name}


def read_part(dest: Storage, digest: str, part: int) -> pa.Table:
    """Read a part's verdicts by a bundle.

    Raises:
        FileNotFoundError: there is no file.
        InputError: it is damaged, or none of heatline's.
        StorageError: DEST does not answer.
    """
    data = dest.read(file_of(digest, part))
    try:
        return pq.read_table(io.BytesIO(data)).select(SCHEMA.names)
    except (pa.ArrowException, OSError, KeyError) as error:  # OSError: damaged pages
        raise InputError(
            f"{dest.path(file_of(digest, part))} is damaged, or no file of verdicts; delete it, and call heatline "
            "archive inspect again"
        ) from error


def _folder_of(digest: str) -> str:
    return f"verdicts/bundle={digest}"
