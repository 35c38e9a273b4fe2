"""Golden tiles: tiles with known answers, which verify a bundle on the machine that will use it."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Manifest
from heatline.edge.bundle.pooling import pool, pooling_of
from heatline.edge.errors import BundleError
from heatline.edge.inference.engine import DIFFERENCE, Engine, infer, infer_features


class GoldenTilesError(BundleError):
    """An engine's answers on this machine differ by more than the bundle allows for its precision."""


@dataclass(frozen=True)
class GoldenTiles:
    """Tiles and the trained model's answers to them."""

    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]"""
    logit: NDArray[np.float32]
    """[N]"""
    map: NDArray[np.float32]
    """[N, h, w]"""
    map_rounding: NDArray[np.float32] | None = None
    """[N], logits: how far each map may differ in addition, where rounding can change a decision, such as which
    attention a discard ratio discards; none: rounding changes nothing."""
    difference: NDArray[np.uint8] | None = None
    """[N, cells, cells, channels], what the tiles have beyond their references; none: the graph has no such input."""

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: array for name, array in vars(self).items() if array is not None})
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, manifest: Manifest) -> "GoldenTiles":
        """Read the tiles in a file; raise a BundleError if it holds none, or they do not fit the manifest."""
        tile = manifest.grid.tile_px
        shapes = {"tiles": (None, tile, tile, 3), "logit": (None,), "map": (None, *manifest.map.hw)}
        if manifest.tensors.difference is not None:
            shapes[DIFFERENCE] = tuple(manifest.tensors.difference.shape)
        return cls(**read_arrays(path, "golden tiles", shapes))

    def differences(self, logit: NDArray[np.float32], maps: NDArray[np.float32]) -> dict[str, float]:
        """Return the largest difference of each output, as a share of its scale, its largest absolute value over these
        tiles. A map's `map_rounding` is subtracted first.
        """
        off_logit, off_map = np.abs(logit - self.logit), np.abs(maps - self.map).max(axis=(1, 2))
        if self.map_rounding is not None:
            off_map = np.maximum(off_map - self.map_rounding, 0)  # a NaN stays one
        return {
            "logit": float(off_logit.max()) / self.scale("logit"),
            "map": float(off_map.max()) / self.scale("map"),
        }

    @property
    def rounding(self) -> float:
        """Largest of `map_rounding`, as a share of the maps' scale."""
        return 0.0 if self.map_rounding is None else float(self.map_rounding.max()) / self.scale("map")

    def scale(self, name: Literal["logit", "map"]) -> float:
        """Return the largest absolute value of an output over these tiles."""
        output: NDArray[np.float32] = getattr(self, name)
        return max(float(np.abs(output).max()), 1e-30)

    def off_identity(
        self, logit: NDArray[np.float32], maps: NDArray[np.float32], top_cells: int | None
    ) -> dict[str, float]:
        """Return how far logits [N] differ from the pooled maps [N, h, w], as a share of the logits' scale."""
        off = np.abs(pool(maps, top_cells) - logit).max()
        return {f"{pooling_of(top_cells)} - logit": float(off) / self.scale("logit")}


def read_arrays(path: Path, what: str, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file, by name. Nothing is unpickled. Raise a BundleError if the file is damaged,
    or lacks an array of one of these shapes, where None is a side of any length.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception as error:  # zip, zlib and npy headers: errors of a damaged file have no common base
        raise BundleError(f"{path} holds no {what} ({error}); export the bundle again") from error
    for name, shape in shapes.items():
        found = arrays[name].shape if name in arrays else ()
        if len(found) != len(shape) or any(
            side not in (None, actual) for side, actual in zip(shape, found, strict=True)
        ):
            raise BundleError(f"{path} has {name} of shape {found}, expected {shape}; export the bundle again")
    return arrays


def check_golden(golden: GoldenTiles, engine: Engine, manifest: Manifest) -> dict[str, float]:
    """Run the golden tiles on `engine` and return the largest difference of each output, as a share of its scale.

    Raises:
        BundleError: the answers are not as the manifest declares them.
        GoldenTilesError: the differences exceed the manifest's tolerance for the engine's precision.
    """
    if engine.compares != (golden.difference is not None):
        raise BundleError(
            f"the graph for {engine.name} has {'an' if engine.compares else 'no'} input {DIFFERENCE}, and the manifest "
            "says the opposite; export the bundle again"
        )
    logit, maps = infer(engine, golden.tiles, golden.difference)
    if logit.shape != golden.logit.shape or maps.shape != golden.map.shape:
        raise BundleError(
            f"the graph answers {engine.name} with logits of shape {logit.shape} and maps of shape {maps.shape}, the "
            f"golden tiles have {golden.logit.shape} and {golden.map.shape}; export the bundle again"
        )
    if (tensor := manifest.tensors.features) is not None:  # without them, every frame would pass as the product
        features = infer_features(engine, golden.tiles[:1])
        expected = (1, *tensor.shape[1:])
        if features is None or features.shape != expected or not np.isfinite(features).all():
            actual = "none" if features is None else f"{features.shape}, finite: {bool(np.isfinite(features).all())}"
            raise BundleError(
                f"the graph gives {engine.name} features of shape {actual}, the manifest declares {expected}; export "
                "the bundle again"
            )
    differences = golden.differences(logit, maps)
    # Other precisions round map and logit separately, and their tolerances are for each output.
    off_identity = golden.off_identity(logit, maps, manifest.map.top_cells) if engine.precision == "f32" else {}
    tolerance = manifest.tolerances[engine.precision]
    for name, difference in (differences | off_identity).items():
        if not difference <= tolerance:  # refuses a NaN too
            refused = "this bundle" if engine.precision == "f32" else engine.precision
            raise GoldenTilesError(
                f"on this machine {engine.name} in {engine.precision} is off by {difference:.1e} of the scale in "
                f"{name} on the golden tiles, allowed is {tolerance:.1e}; {refused} must not be used here"
            )
    return differences
