"""The feature cache on disk: limited in size, shared by the trainings of a machine, and kept for later ones.

It has one file per tile instead of a database: a rename is atomic, damage costs one tile, nothing is written twice
(compared with SQLite: writes are 3.5 times as fast, reads as fast, checksums included), and one limit applies to all
trunks.
"""

import contextlib
import fcntl
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.edge.util.text import format_count
from heatline.train.features.memory import available_bytes

FOLDER_KEY, LIMIT_KEY = "features.folder", "features.limit_gb"
LIMIT_BYTES = 20 * 10**9
IN_MEMORY_SHARE = 1 / 4
"""Share of the available memory that the features of all trainings may take: 4 GiB hold about 14,000 tiles of
EfficientNet-lite0."""
_SUFFIX = ".f16"
_CHECKSUM_BYTES = 8
_NAME_BYTES = 16
_BLOCK_BYTES = 4096
"""Block size of file systems."""


def default_folder() -> Path:
    """$XDG_CACHE_HOME/heatline/features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatline" / "features"


def key_of(*parts: str | int | bytes) -> bytes:
    """Return a key from everything that a tile's pixels depend on: digest of its picture, place, augmentation."""
    plain = [part if isinstance(part, str | bytes) else int(part) for part in parts]  # a NumPy 5 gives the key of 5
    return xxhash.xxh3_128_digest(repr(plain).encode())


class FeatureCache:
    """The features of one trunk for one training; other processes may use the same folder at the same time.

    `trainings/` in the folder has a subfolder per process with a list of the files that it needs. The process holds a
    lock on that list while it lives, and the kernel releases the lock however the process ends. No file that a living
    process needs is ever deleted.

    Args:
        folder: created if missing.
        identity: digest of the trunk; trunks with other features have another identity.
        shapes: [h, w, c] of each stage.
        limit_bytes: limit for all files in the folder together, of all trunks.
        report_line: gets a sentence about damaged features.
    Raises:
        TrainingError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        shapes: Sequence[tuple[int, int, int]],
        *,
        limit_bytes: int = LIMIT_BYTES,
        report_line: Callable[[str], object],
    ) -> None:
        self.folder, self.shapes = folder, tuple(shapes)
        self._identity, self._limit_bytes, self._report_line = repr((identity, self.shapes)), limit_bytes, report_line
        self.row_bytes = sum(2 * math.prod(shape) for shape in self.shapes)
        self._file_bytes = _room(self.row_bytes + _CHECKSUM_BYTES)
        self._names: set[bytes] = set()
        self._own = folder / "trainings" / f"{os.getpid()}-{secrets.token_hex(8)}"
        with self._translated_errors(), self._locked():
            self._own.mkdir(parents=True)
            self._list = (self._own / "needed").open("wb")
            fcntl.flock(self._list, fcntl.LOCK_EX)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Reserve space for these keys until this cache is closed; the least recently used features are deleted.

        Returns:
            The keys without features, in order, without duplicates. Damaged features count as missing.
        Raises:
            TrainingError: the features do not fit the limit, or the folder cannot be used.
        """
        names = {self._name(key): key for key in keys}
        with self._translated_errors():
            with self._locked():
                needed = self._names | names.keys()
                self._make_room(needed)
                self._list.seek(0)
                self._list.write(self._file_bytes.to_bytes(8, "little") + b"".join(needed))
                self._list.flush()
                self._names = needed
            row = self._empty(1)[0]
            found = {name: self._load(name, row) for name in names}
            for name, is_intact in found.items():
                if is_intact:
                    os.utime(self._path(name))
                elif is_intact is not None:
                    self._path(name).unlink(missing_ok=True)  # another training may have deleted it
        if damaged := sum(is_intact is False for is_intact in found.values()):
            self._report_line(
                f"the features of {format_count(damaged, 'tile')} in {self.folder} are damaged, they are extracted "
                "again"
            )
        return [key for name, key in names.items() if not found[name]]

    def write(self, keys: Sequence[bytes], stages: Sequence[NDArray[np.float16]]) -> None:
        """Store the features of keys that were passed to `missing`.

        Args:
            stages: features of each stage, float16 [n, h, w, c].
        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        for i, key in enumerate(keys):
            name, row = self._name(key), np.concatenate([stage[i].ravel() for stage in stages])
            if name not in self._names or row.dtype != np.float16 or row.nbytes != self.row_bytes:
                raise ValueError(f"features {row.dtype} [{len(row)}] do not fit, or their key was not reserved")
            part, path = self._own / name.hex(), self._path(name)
            with self._translated_errors():
                try:
                    with part.open("wb") as file:
                        file.write(row.data)
                        file.write(xxhash.xxh3_64_digest(row.data))
                    path.parent.mkdir(exist_ok=True)
                    os.replace(part, path)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise

    def read(self, keys: Sequence[bytes]) -> tuple[NDArray[np.float16], ...]:
        """Read the features of these keys, in their order.

        Returns:
            Each stage's features, float16 [n, h, w, c]; those of one tile are contiguous, the tiles are not.
        Raises:
            TrainingError: some are missing or damaged.
        """
        return self.split(self.read_rows(keys))

    def read_rows(self, keys: Sequence[bytes]) -> NDArray[np.uint8]:
        """Read rows uint8 [n, row] for `split`: the features of all stages and their checksum. Errors as `read`."""
        rows = self._empty(len(keys))
        with self._translated_errors():
            if not all(self._load(self._name(key), row) for key, row in zip(keys, rows, strict=True)):
                raise TrainingError(
                    f"features in {self.folder} were deleted or damaged during the training; give the same command "
                    "again, they are extracted again"
                )
        return rows

    def split(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.float16], ...]:
        """Return views of rows [n, row] as stages, each float16 [n, h, w, c]."""
        ends = np.cumsum([2 * math.prod(shape) for shape in self.shapes])
        stages = np.split(rows, ends, axis=1)[:-1]  # the last part is the checksum
        return tuple(
            stage.view(np.float16).reshape(-1, *shape) for stage, shape in zip(stages, self.shapes, strict=True)
        )

    def close(self) -> None:
        """Release the reserved files: other trainings may delete them from now on."""
        shutil.rmtree(self._own, ignore_errors=True)
        self._list.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_room(self, needed: set[bytes]) -> None:
        """Delete files that no living training needs, least recently used first, until all files fit the limit."""
        others = self._needed_by_others()
        own_bytes = len(needed) * self._file_bytes
        others_bytes = sum(room for name, room in others.items() if name not in needed)
        if own_bytes + others_bytes > self._limit_bytes:
            others_note = f", those of other running trainings {_gb(others_bytes)}" if others_bytes else ""
            raise TrainingError(
                f"the features of {format_count(len(needed), 'tile')} take {_gb(own_bytes)}{others_note}, and "
                f"{LIMIT_KEY} allows {_gb(self._limit_bytes)} in {self.folder}; raise {LIMIT_KEY}"
            )
        unused = []
        for entry in self._files():
            name = bytes.fromhex(entry.name.removesuffix(_SUFFIX))
            if name not in needed and name not in others:
                found = entry.stat()
                unused.append((found.st_mtime_ns, _room(found.st_size), entry.path))
        excess = own_bytes + others_bytes + sum(room for _, room, _ in unused) - self._limit_bytes
        for _, room, path in sorted(unused):
            if excess <= 0:
                break
            os.unlink(path)
            excess -= room

    def count_trainings(self) -> int:
        """Count the trainings that use the folder now, with this one."""
        with self._translated_errors(), self._locked():
            return 1 + sum(1 for _ in self._lists_of_others())

    def _needed_by_others(self) -> dict[bytes, int]:
        """Return the file names that other living trainings need, with their bytes."""
        needed: dict[bytes, int] = {}
        for file in self._lists_of_others():
            room, names = int.from_bytes(file.read(8), "little"), file.read()
            starts = range(0, len(names), _NAME_BYTES)
            needed |= dict.fromkeys((names[start : start + _NAME_BYTES] for start in starts), room)
        return needed

    def _lists_of_others(self) -> Iterator[BinaryIO]:
        """Yield the list of every other living training; delete those of dead ones."""
        for training in self._own.parent.iterdir():
            if training == self._own:
                continue
            with contextlib.suppress(FileNotFoundError), (training / "needed").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield file
                    continue
            shutil.rmtree(training, ignore_errors=True)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        for first in range(256):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / f"{first:02x}") as entries:
                yield from (entry for entry in entries if entry.name.endswith(_SUFFIX))

    def _load(self, name: bytes, row: NDArray[np.uint8]) -> bool | None:
        """Read a file into `row`; return whether it is intact, None if it does not exist."""
        try:
            with self._path(name).open("rb", buffering=0) as file:
                count = file.readinto(row.data)
                has_right_size = count == len(row) and not file.read(1)
        except FileNotFoundError:
            return None
        return has_right_size and xxhash.xxh3_64_digest(row[: self.row_bytes].data) == row[self.row_bytes :].tobytes()

    def _empty(self, count: int) -> NDArray[np.uint8]:
        return np.empty((count, self.row_bytes + _CHECKSUM_BYTES), np.uint8)

    def _name(self, key: bytes) -> bytes:
        return xxhash.xxh3_128_digest(self._identity.encode() + key)

    def _path(self, name: bytes) -> Path:
        text = name.hex()
        return self.folder / text[:2] / f"{text}{_SUFFIX}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock: only one process at a time starts or reserves space."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"features cannot be stored in {self.folder} ({error.strerror or error}); make room there, or choose "
                f"another folder with {FOLDER_KEY}; the features extracted so far stay cached"
            ) from error


class Features:
    """Features of the cache by their index in `keys`; those that are read stay in memory if all fit `in_memory_bytes`.

    Args:
        in_memory_bytes: None: the part of this training in `IN_MEMORY_SHARE` of the available memory.
        bf16: whether indexing gives bfloat16, for trainings in bf16, which need not convert them in every step.
    """

    def __init__(
        self, cache: FeatureCache, keys: Sequence[bytes], *, in_memory_bytes: int | None = None, bf16: bool = False
    ) -> None:
        self._cache, self._keys, self._bf16 = cache, keys, bf16
        if in_memory_bytes is None:
            in_memory_bytes = int(IN_MEMORY_SHARE * available_bytes() / cache.count_trainings())
        self._rows: NDArray[np.uint8] | None = None
        empty = cache.read_rows([])
        if len(keys) * empty.shape[1] <= in_memory_bytes:
            self._rows = np.empty((len(keys), empty.shape[1]), np.uint8)  # memory is allocated when rows are read
        self._is_read = np.zeros(len(keys), np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Return each stage's features [n, h, w, c], of tiles by index: float16, or the bits of bfloat16 as int16.

        Raises:
            TrainingError: some are no longer in the cache.
        """
        if self._rows is None:
            found = self._read(rows)
        else:
            if len(new := np.unique(rows[~self._is_read[rows]])):
                self._rows[new] = self._read(new)
                self._is_read[new] = True
            found = self._rows[rows]
        stages = self._cache.split(found)
        return tuple(stage.view(np.int16) for stage in stages) if self._bf16 else stages

    def exact(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float16], ...]:
        """Return each stage's features float16 [n, h, w, c], of tiles by index. Errors as indexing."""
        return self._cache.read([self._keys[row] for row in rows]) if self._bf16 else self[rows]

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = self._cache.read_rows([self._keys[row] for row in rows])
        if not self._bf16:
            return found
        return torch.from_numpy(found).view(torch.float16).float().bfloat16().view(torch.uint8).numpy()


def _room(file_bytes: int) -> int:
    return -(-file_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
