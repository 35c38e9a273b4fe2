"""Golden tiles: tiles with known answers, run on the machine that is to use the bundle."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Manifest
from edge.errors import BundleError
from edge.inference.engine import Engine, infer


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
        try:
            with np.load(path, allow_pickle=False) as arrays:
                golden = cls(arrays["tiles"], arrays["logit"], arrays["map"])
        except Exception as error:  # zip, zlib, npy headers, memory: what a damaged file raises has no common base
            raise BundleError(f"{path} holds no golden tiles ({error}); export the bundle again") from error
        tile, count = manifest.grid.tile_px, len(golden.tiles) if golden.tiles.ndim else 0
        expected: dict[str, tuple[NDArray[Any], tuple[int, ...], type]] = {
            "tiles": (golden.tiles, (count, tile, tile, 3), np.uint8),
            "logit": (golden.logit, (count,), np.float32),
            "map": (golden.map, (count, *manifest.map.hw), np.float32),
        }
        for name, (array, shape, dtype) in expected.items():
            if count == 0 or array.shape != shape or array.dtype != dtype:
                raise BundleError(
                    f"{path} has {name} of shape {array.shape} and type {array.dtype}, expected {shape} of "
                    f"{np.dtype(dtype).name}; export the bundle again"
                )
        return golden

    def differences(self, logit: NDArray[np.float32], maps: NDArray[np.float32]) -> dict[str, float]:
        """Largest difference of each output, as a share of its scale: its largest absolute value over these tiles."""
        return {
            name: float(np.abs(came - known).max()) / max(float(np.abs(known).max()), 1e-30)
            for name, came, known in (("logit", logit, self.logit), ("map", maps, self.map))
        }


def check_golden(golden: GoldenTiles, engine: Engine, manifest: Manifest) -> dict[str, float]:
    """Run the golden tiles on `engine` and return how far its answers are off, as shares of the scale.

    Raises:
        BundleError: farther than the manifest allows for the engine's precision.
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
            raise BundleError(
                f"on this machine {engine.name} in {engine.precision} is off by {difference:.1e} of the scale in "
                f"{name} on the golden tiles, allowed is {tolerance:.1e}; this bundle must not be used here"
            )
    return came
