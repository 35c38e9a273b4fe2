"""Inspection of pictures with a bundle, in this process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from heatline.edge.offline import BundleInspector


def open_bundle(
    path: str | os.PathLike[str],
    *,
    engine: Literal["openvino", "onnxruntime"] = "openvino",
    precision: Literal["f32", "bf16", "int8"] = "f32",
) -> "BundleInspector":
    """Verify a bundle, compile its graph and run its golden tiles on this machine.

    The verdicts are those of a line that runs the same bundle, engine and precision with default settings.

        with heatline.open_bundle("boards.bundle") as inspector:
            result = inspector.inspect("board.png")

    Args:
        path: the bundle's folder.
        precision: precision of the engine. If this machine cannot compute in it, f32 is used and a warning is logged.
    Returns:
        The inspector. Close it, or use it in a `with` block, to release the engine's memory.
    Raises:
        BundleError: the folder is not a bundle, or is damaged, or gives wrong answers on this machine.
        EngineError: the engine does not start, or does not support the precision.
    """
    from heatline.edge import bundle, offline  # they load NumPy, OpenCV and the engine

    verified = bundle.open_bundle(Path(path))
    return offline.BundleInspector(verified, bundle.open_verified_engine(verified, engine, precision))
