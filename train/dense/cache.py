"""The feature cache on disk: limited in size, shared by the trainings of a machine, and kept for later ones.

It has one file per tile instead of a database: a rename is atomic, damage costs one tile, nothing is written twice
(compared with SQLite: writes are 3.5 times as fast, reads as fast, checksums included), and one limit applies to all
trunks.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.edge.util.text import format_count

FOLDER_KEY, LIMIT_KEY = "features.folder", "features.limit_gb"
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
LIMIT_BYTES = 20 * 10**9
IN_MEMORY_SHARE = 1 / 4
"""Share of the available memory that the features of all trainings may take: 4 GiB hold about 14,000 tiles of
EfficientNet-lite0."""
_SUFFIX = ".f16"
_CHECKSUM_BYTES = 8
IN_USE_SECONDS = 3600
"""A training reads again what it needs more often than that, or holds it in memory."""


def default_folder() -> Path:
    """$XDG_CACHE_HOME/heatline/features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatline" / "features"


def key_of(*parts: str | int | bytes) -> bytes:
    """Return a key from everything that a tile's pixels depend on: digest of its picture, place, augmentation."""
    plain = [part if isinstance(part, str | bytes) else int(part) for part in parts]  # a NumPy 5 gives the key of 5
    return xxhash.xxh3_128_digest(repr(plain).encode())


class FeatureCache:
    """The features of one trunk; other processes may use the same folder at the same time.

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
        with self._translated_errors():
            folder.mkdir(parents=True, exist_ok=True)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Make room for the features of these keys: the least recently used of others are deleted, but none that any
        training used within `IN_USE_SECONDS`.

        Returns:
            The keys without features, in order, without duplicates. Damaged features count as missing.
        Raises:
            TrainingError: the features do not fit the limit, or the folder cannot be used.
        """
        paths = {self._path(key): key for key in keys}
        row, missing, damaged = self._empty(1)[0], [], 0
        with self._translated_errors():
            self._make_room(set(paths))
            for path, key in paths.items():
                is_intact = self._load(path, row)
                if not is_intact:
                    missing.append(key)
                    damaged += is_intact is False
                    path.unlink(missing_ok=True)
        if damaged:
            self._report_line(
                f"the features of {format_count(damaged, 'tile')} in {self.folder} are damaged, they are extracted "
                "again"
            )
        return missing

    def write(self, keys: Sequence[bytes], stages: Sequence[NDArray[np.float16]]) -> None:
        """Store the features of keys.

        Args:
            stages: features of each stage, float16 [n, h, w, c].
        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        for i, key in enumerate(keys):
            row, path = np.concatenate([stage[i].ravel() for stage in stages]), self._path(key)
            if row.dtype != np.float16 or row.nbytes != self.row_bytes:
                raise ValueError(f"features {row.dtype} [{len(row)}] do not fit {self.shapes}")
            with self._translated_errors():
                path.parent.mkdir(exist_ok=True)
                part = path.with_suffix(f".{os.getpid()}")  # not synced: a tile lost by a power cut is damaged
                try:
                    part.write_bytes(row.tobytes() + xxhash.xxh3_64_digest(row.data))
                    part.replace(path)
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
            if not all(self._load(self._path(key), row) for key, row in zip(keys, rows, strict=True)):
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

    def _make_room(self, needed: set[Path]) -> None:
        since_s = time.time() - IN_USE_SECONDS
        wanted_bytes = len(needed) * (self.row_bytes + _CHECKSUM_BYTES)
        in_use_bytes, unused = 0, []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another training deleted it
                found = path.stat()
                if path not in needed and found.st_mtime < since_s:
                    unused.append((found.st_mtime_ns, found.st_size, path))
                elif path not in needed:
                    in_use_bytes += found.st_size
        if wanted_bytes + in_use_bytes > self._limit_bytes:
            others = f", those that were used within the last hour {_gb(in_use_bytes)}" if in_use_bytes else ""
            raise TrainingError(
                f"the features of {format_count(len(needed), 'tile')} take {_gb(wanted_bytes)}{others}, and "
                f"{LIMIT_KEY} allows {_gb(self._limit_bytes)} in {self.folder}; raise {LIMIT_KEY}"
            )
        excess = wanted_bytes + in_use_bytes + sum(size for _, size, _ in unused) - self._limit_bytes
        for _, size, path in sorted(unused):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def _load(self, path: Path, row: NDArray[np.uint8]) -> bool | None:
        """Read a file into `row`, and note its use; return whether it is intact, None if it does not exist."""
        try:
            with path.open("rb", buffering=0) as file:
                count = file.readinto(row.data)
                has_right_size = count == len(row) and not file.read(1)
                os.utime(file.fileno())
        except FileNotFoundError:
            return None
        return has_right_size and xxhash.xxh3_64_digest(row[: self.row_bytes].data) == row[self.row_bytes :].tobytes()

    def _empty(self, count: int) -> NDArray[np.uint8]:
        return np.empty((count, self.row_bytes + _CHECKSUM_BYTES), np.uint8)

    def _path(self, key: bytes) -> Path:
        text = xxhash.xxh3_128_hexdigest(self._identity.encode() + key)
        return self.folder / text[:2] / f"{text}{_SUFFIX}"

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
        in_memory_bytes: None: `IN_MEMORY_SHARE` of the available memory, or the part of it that fits this process's
            share of the processors, as others may train on the rest.
        bf16: whether indexing gives bfloat16, for trainings in bf16, which need not convert them in every step.
    """

    def __init__(
        self, cache: FeatureCache, keys: Sequence[bytes], *, in_memory_bytes: int | None = None, bf16: bool = False
    ) -> None:
        self._cache, self._keys, self._bf16 = cache, keys, bf16
        if in_memory_bytes is None:
            processors = len(os.sched_getaffinity(0)) / (os.cpu_count() or 1)
            in_memory_bytes = int(IN_MEMORY_SHARE * processors * available_bytes())
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


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the memory that this process may take without harm to others: of the machine, and of its control groups.

    What a group has cached of files counts as used.

    Args:
        proc, cgroups: where the kernel shows processes and control groups (version 2).
    """
    meminfo = (proc / "meminfo").read_text()
    found = [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    own = (proc / "self" / "cgroup").read_text().strip().rpartition("::/")[2]
    for folder in (cgroups / own, *(cgroups / own).parents):
        with contextlib.suppress(OSError):  # the topmost group has no limit
            limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
            if limit != "max":
                found.append(max(0, int(limit) - int(used)))
    return min(found)
