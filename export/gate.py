"""The gate: the exported graphs must answer as the trained model does."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.bundle.golden import MOST_ROUNDING
from heatline.edge.bundle.manifest import Gate
from heatline.edge.errors import ExportError
from heatline.edge.inference import infer, open_engine
from heatline.train.models.explained import ExplainedClassifier

TOLERANCE = 1e-4
"""The largest difference, as a share of the output's scale: its largest absolute value over the golden tiles."""
BATCHES = (1, 7)
"""The batch sizes, as a tile's answer must not depend on the other tiles; 7 leaves a partial batch at the end."""


def torch_answers(
    model: ExplainedClassifier, tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None
) -> GoldenTiles:
    """Return the tiles [N, tile, tile, 3] with the model's answers in f32.

    Args:
        difference: [N, cells, cells, channels], if the model compares tiles with a reference.
    """
    inputs = [torch.from_numpy(each) for each in (tiles, difference) if each is not None]
    with torch.inference_mode():
        logit, maps = model.eval()(*inputs)
        rounding = model.map_rounding(inputs[0])
    return GoldenTiles(tiles, logit.numpy(), maps.numpy(), rounding.numpy() if rounding.any() else None, difference)


def pass_gate(golden: GoldenTiles, folder: Path, top_cells: int | None = None) -> Gate:
    """Check the graphs in `folder` by the golden tiles: ONNX Runtime and OpenVINO in f32, in batches of 1 and of many.

    Args:
        top_cells: from the manifest's identity: the logit is the mean of this many highest cells; None: of all.
    Raises:
        ExportError: an answer differs by more than the tolerance, the identity between map and logit does not hold, or
            rounding alone can move the maps too far.
    """
    if not golden.rounding <= MOST_ROUNDING:
        raise ExportError(
            f"rounding alone moves a map of this model by {golden.rounding:.2f} of the scale, expected at most "
            f"{MOST_ROUNDING:g}: its discard ratio chooses among entries that are equal but for their last digits; "
            "train longer, or with another model.discard_ratio or model.fusion"
        )
    largest: dict[str, float] = {}
    moved = np.zeros(len(golden.tiles), np.float32)
    one_by_one: dict[str, GoldenTiles] = {}
    for kind, batch, logit, maps in _answers(golden, folder):
        engine = f"{kind} in batches of {batch}" if batch else kind
        differences = golden.differences(logit, maps) | golden.off_identity(logit, maps, top_cells)
        moved = np.maximum(moved, np.abs(maps - golden.map).max(axis=(1, 2)) / golden.scale("map"))
        alone = one_by_one.setdefault(kind, replace(golden, logit=logit, map=maps))
        for name, difference in alone.differences(logit, maps).items():
            differences[name] = max(differences[name], difference)  # between many at once and one by one
        for name, difference in differences.items():
            if not difference <= TOLERANCE:  # a NaN does not pass either
                raise ExportError(
                    f"{engine} is off by {difference:.1e} of the scale in {name}, allowed is {TOLERANCE:.0e}; "
                    "this model must not be exported as it is"
                )
            largest[name] = max(largest.get(name, 0.0), difference)
    return Gate(
        tiles=len(golden.tiles),
        tolerance=TOLERANCE,
        largest_difference=largest,
        map_rounding=golden.rounding,
        maps_moved=int((moved > TOLERANCE).sum()),
        largest_move=float(moved.max()) if golden.rounding else 0.0,
    )


def _answers(golden: GoldenTiles, folder: Path) -> Iterator[tuple[str, int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield each engine's name, batch size (0: PyTorch, all tiles at once), logits and maps."""
    yield "PyTorch itself", 0, golden.logit, golden.map
    tile_px = golden.tiles.shape[1]
    for kind in ("onnxruntime", "openvino"):
        for batch in BATCHES:
            with contextlib.closing(open_engine(kind, folder, tile_px, batch=batch)) as engine:
                yield kind, batch, *infer(engine, golden.tiles, golden.difference)
