"""Golden tiles: tiles with known answers, run on the machine that is to use the bundle."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Manifest
from edge.bundle.plain_file import open_plain
from edge.bundle.stored_arrays import StoredArrays
from edge.errors import BundleError
from edge.inference.engine import Engine, infer

MOST_TILES = 256
MOST_BYTES = 2**30
"""Of golden tiles and their answers in memory, whatever a file claims."""


class GoldenTilesError(BundleError):
    """An engine's answers on this machine are farther off than the bundle allows for its precision."""


@dataclass(frozen=True)
class GoldenTiles:
    """Tiles and what the trained model said of them."""

    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]"""
    logit: NDArray[np.float32]
    """[N]"""
    map: NDArray[np.float32]
    """[N, h, w]"""

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, tiles=self.tiles, logit=self.logit, map=self.map)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, manifest: Manifest) -> "GoldenTiles":
        """The tiles in a file. What they claim to be is held against the manifest before memory is taken for them.

        Raises:
            BundleError: they do not fit the manifest, or are no golden tiles.
        """
        tile = manifest.grid.tile_px
        expected: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "tiles": ((tile, tile, 3), np.uint8),
            "logit": ((), np.float32),
            "map": (manifest.map.hw, np.float32),
        }
        bytes_per_tile = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in expected.values())
        most = min(MOST_TILES, MOST_BYTES // bytes_per_tile)
        try:
            with open_plain(path) as file, StoredArrays(file, at_most=most * bytes_per_tile) as stored:
                count = (*stored.shape("tiles"), 0)[0]
                if count > most:
                    raise BundleError(
                        f"{path} claims {count:,} tiles, expected at most {most}; export the bundle again"
                    )
                for name, (shape, dtype) in expected.items():
                    if count == 0 or stored.shape(name) != (count, *shape) or stored.dtype(name) != dtype:
                        raise BundleError(
                            f"{path} has {name} of shape {stored.shape(name)} and type {stored.dtype(name)}, expected "
                            f"{(count, *shape)} of {np.dtype(dtype).name}; export the bundle again"
                        )
                return cls(*(stored.read(name) for name in expected))
        except BundleError:
            raise
        except Exception as error:  # zip, zlib, npy headers, memory: what a damaged file raises has no common base
            raise BundleError(f"{path} holds no golden tiles ({error}); export the bundle again") from error

    def differences(self, logit: NDArray[np.float32], maps: NDArray[np.float32]) -> dict[str, float]:
        """Largest difference of each output, as a share of its scale: its largest absolute value over these tiles."""
        return {
            name: float(np.abs(came - known).max()) / max(float(np.abs(known).max()), 1e-30)
            for name, came, known in (("logit", logit, self.logit), ("map", maps, self.map))
        }


def check_golden(golden: GoldenTiles, engine: Engine, manifest: Manifest) -> dict[str, float]:
    """Run the golden tiles on `engine` and return how far its answers are off, as shares of the scale.

    Raises:
        BundleError: they are none that this graph should give.
        GoldenTilesError: farther than the manifest allows for the engine's precision.
    """
    logit, maps = infer(engine, golden.tiles)
    if logit.shape != golden.logit.shape or maps.shape != golden.map.shape:
        raise BundleError(
            f"the graph answers {engine.name} with logits of shape {logit.shape} and maps of shape {maps.shape}, the "
            f"golden tiles have {golden.logit.shape} and {golden.map.shape}; export the bundle again"
        )
    came = golden.differences(logit, maps)
    tolerance = manifest.tolerances[engine.precision]
    for name, difference in came.items():
        if not difference <= tolerance:  # a NaN is refused too
            what = "this bundle" if engine.precision == "f32" else engine.precision
            raise GoldenTilesError(
                f"on this machine {engine.name} in {engine.precision} is off by {difference:.1e} of the scale in "
                f"{name} on the golden tiles, allowed is {tolerance:.1e}; {what} must not be used here"
            )
    return came
