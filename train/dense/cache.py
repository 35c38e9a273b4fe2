"""The features of tiles on disk, which the trainings of a machine share: each training adds a file to the folder."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import copy
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.edge.util.text import format_count

LIMIT_BYTES = 20 * 10**9
BF16_BYTES = 2 * 2**30
KEY_BYTES = 16
SUFFIX = ".features"


def default_folder() -> Path:
    """$XDG_CACHE_HOME/heatline/features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatline" / "features"


def key_of(*parts: str | int | bytes) -> bytes:
    """Return a key from everything that a tile's pixels depend on: digest of its picture, place, augmentation."""
    plain = [part if isinstance(part, str | bytes) else int(part) for part in parts]  # a NumPy 5 gives the key of 5
    return xxhash.xxh3_128_digest(repr(plain).encode())


class Features:
    """The features of a training's samples, by index.

    Args:
        records: of each sample, float16, stage by stage: views of files, of which the kernel keeps in memory what fits.
        shapes: [h, w, c] of each stage.
    """

    def __init__(self, records: Sequence[NDArray[np.uint8]], shapes: Sequence[tuple[int, int, int]]) -> None:
        self._records, self._shapes = records, shapes
        self._differences: NDArray[np.uint8] | None = None
        self._in_bf16: dict[int, NDArray[np.uint8]] = {}

    def with_differences(self, differences: NDArray[np.uint8]) -> "Features":
        """Return the same features, followed by differences to a reference, uint8 [N, h, w, CHANNELS]."""
        compared = copy(self)
        compared._differences = differences
        return compared

    def take(self, rows: NDArray[np.int64], *, bf16: bool = False) -> list[NDArray[Any]]:
        """Return each stage's features [n, h, w, c] of samples by index; only each sample is contiguous.

        Args:
            bf16: whether they are bfloat16, in arrays of int16, instead of float16.
        """
        ends = np.cumsum([2 * prod(shape) for shape in self._shapes])
        found = np.empty((len(rows), ends[-1]), np.uint8)
        for one, row in zip(found, rows.tolist(), strict=True):
            one[:] = self._rounded(row) if bf16 else self._records[row]
        stages = [
            part.view(np.int16 if bf16 else np.float16).reshape(-1, *shape)
            for part, shape in zip(np.split(found, ends[:-1], axis=1), self._shapes, strict=True)
        ]
        return stages if self._differences is None else [*stages, self._differences[rows]]

    def _rounded(self, row: int) -> NDArray[np.uint8]:
        """Return a record in bfloat16; up to `BF16_BYTES` of them stay in memory, as this takes longer than a copy."""
        if row not in self._in_bf16:
            floats = self._records[row].view(np.float16).astype(np.float32)
            rounded = torch.from_numpy(floats).bfloat16().view(torch.uint8).numpy()
            if len(self._in_bf16) * rounded.nbytes > BF16_BYTES:
                return rounded
            self._in_bf16[row] = rounded
        return self._in_bf16[row]


class FeatureCache:
    """The features of one trunk. A file has records of a key and its features; the last one may be incomplete.

    Args:
        folder: created if missing.
        identity: digest of the trunk; trunks with other features have another identity.
        shapes: [h, w, c] of each stage.
        limit_bytes: limit for all files in the folder together, of all trunks.
    Raises:
        TrainingError: the folder cannot be written, or is full; so do all methods.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        shapes: Sequence[tuple[int, int, int]],
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._folder, self._shapes, self._limit_bytes = folder, tuple(shapes), limit_bytes
        self._trunk = xxhash.xxh3_128_hexdigest(repr((identity, self._shapes)).encode())
        self._record_bytes = KEY_BYTES + sum(2 * prod(shape) for shape in self._shapes)
        self._own, self._writing = folder / f"{self._trunk}-{uuid4().hex}{SUFFIX}", Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Make room for the features of these keys: the least recently used files are deleted.

        Returns:
            The keys without features, in order, without duplicates.
        """
        needed = dict.fromkeys(keys)
        if (wanted_bytes := len(needed) * self._record_bytes) > self._limit_bytes:
            raise TrainingError(
                f"the features of {format_count(len(needed), 'tile')} take {wanted_bytes / 1e9:.3g} GB, and "
                f"features.limit_gb allows {self._limit_bytes / 1e9:.3g} GB; raise features.limit_gb"
            )
        try:
            stored = self._stored()
            for path in {stored[key][0] for key in needed if key in stored}:
                os.utime(path)
            missing = [key for key in needed if key not in stored]
            files = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
            excess = sum(path.stat().st_size for path in files) + len(missing) * self._record_bytes - self._limit_bytes
            if excess <= 0:
                return missing
            for path in files:
                if excess > 0:
                    excess -= path.stat().st_size
                    path.unlink()
        except FileNotFoundError:
            pass  # another training deleted it
        except OSError as error:
            raise self._failed(error) from error
        return self.missing(needed)  # some of them may have been deleted

    def write(self, keys: Sequence[bytes], stages: Sequence[NDArray[np.float16]]) -> None:
        """Store each stage's features of keys, float16 [n, h, w, c]; several threads may do so."""
        parts = [
            np.frombuffer(b"".join(keys), np.uint8),
            *(np.ascontiguousarray(each).view(np.uint8) for each in stages),
        ]
        records = np.concatenate([part.reshape(len(keys), -1) for part in parts], axis=1)
        try:
            with self._writing, self._own.open("ab") as file:
                file.write(records.data)
        except OSError as error:
            raise self._failed(error) from error

    def read(self, keys: Sequence[bytes]) -> Features:
        """Return the features of these keys, in their order; a TrainingError if some are missing."""
        stored = self._stored()
        try:
            return Features([stored[key][1] for key in keys], self._shapes)
        except KeyError as error:
            raise TrainingError(
                f"features in {self._folder} were deleted during the training; raise features.limit_gb, and give the "
                "same command again"
            ) from error

    def _stored(self) -> dict[bytes, tuple[Path, NDArray[np.uint8]]]:
        """Return file and features of each stored key."""
        found = {}
        for path in self._folder.glob(f"{self._trunk}-*{SUFFIX}"):
            with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:  # another training deleted it
                if not (count := os.fstat(file.fileno()).st_size // self._record_bytes):
                    continue
                records = np.memmap(file, np.uint8, "r", shape=(count, self._record_bytes))
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # else the kernel reads far ahead
                for number, record in enumerate(np.asarray(records)):
                    key = os.pread(file.fileno(), KEY_BYTES, number * self._record_bytes)
                    found[key] = path, record[KEY_BYTES:]
        return found

    def _failed(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"features cannot be stored in {self._folder} ({error.strerror or error}); make room there, or choose "
            "another folder with features.folder; the features extracted so far stay cached"
        )
