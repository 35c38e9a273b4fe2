"""How an engine is opened: the one place that knows all kinds. Each kind's library is imported only when it is used."""

from pathlib import Path

from edge.errors import EngineError
from edge.inference.engine import Engine, EngineKind


def open_engine(
    kind: EngineKind, folder: Path, tile_px: int, *, threads: int = 0, streams: int = 0, batch: int = 0
) -> Engine:
    """The graph in a bundle's folder, compiled in f32 by an engine of this kind.

    Args:
        tile_px: side of a tile, px.
        threads: processor threads in all; 0: as many as there are cores.
        streams: requests worked on side by side (OpenVINO); 0: one per thread.
        batch: tiles per request; 0: what is fastest for this kind.
    Raises:
        EngineError: it does not load or compile.
    """
    if kind == "openvino":
        try:
            from edge.inference.openvino_engine import OpenVinoEngine
        except Exception as error:  # openvino looks for a home directory, among other things, when it is imported
            raise EngineError(
                f"OpenVINO cannot be imported ({error}); mend its installation (it needs HOME to be set) or choose "
                'engine.kind = "onnxruntime"'
            ) from error

        return OpenVinoEngine(folder, tile_px, threads=threads, streams=streams, batch=batch)
    from edge.inference.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder, tile_px, threads=threads, batch=batch)
