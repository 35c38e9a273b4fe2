"""Engines: tiles in, logits and maps out, asynchronously. Only this module knows all kinds; it imports a kind's library
when that kind is used.
"""

from collections.abc import Mapping
from pathlib import Path

from heatline.edge.errors import EngineError
from heatline.edge.inference.engine import GRAPHS, PROCESSOR, Engine, EngineKind, Precision, infer

__all__ = ["PRECISIONS", "Engine", "EngineKind", "Precision", "infer", "open_engine", "require_supported"]

PRECISIONS: Mapping[EngineKind, tuple[Precision, ...]] = {"openvino": ("f32", "bf16", "int8"), "onnxruntime": ("f32",)}
"""The precisions of each kind of engine, if the processor has them."""


def open_engine(
    kind: EngineKind,
    folder: Path,
    tile_px: int,
    *,
    device: str = PROCESSOR,
    precision: Precision = "f32",
    graph: str | None = None,
    threads: int = 0,
    streams: int = 0,
    batch: int = 0,
    cache: Path | None = None,
) -> Engine:
    """Compile a graph in a bundle's folder with an engine of this kind, in exactly this precision.

    Args:
        device: OpenVINO's name of the device, such as GPU.
        graph: the IR that OpenVINO compiles; None: the precision's usual one. ONNX Runtime always uses its one graph.
        threads: of the processor; 0: one per core.
        streams: requests that OpenVINO works on in parallel; 0: one per thread.
        batch: tiles per request; 0: the fastest number for this kind.
        cache: folder of OpenVINO's compiled graphs; None: no cache. ONNX Runtime needs none, as it compiles at once.
    Raises:
        EngineError: the graph does not load or compile, or the engine lacks this precision or device.
    """
    require_supported(kind, precision, device)
    if kind == "openvino":
        try:
            from heatline.edge.inference.openvino_engine import OpenVinoEngine
        except Exception as error:  # when imported, openvino looks for a home directory, among other things
            raise EngineError(
                f"OpenVINO cannot be imported ({error}); mend its installation (it needs HOME to be set) or choose "
                'engine.kind = "onnxruntime"'
            ) from error
        return OpenVinoEngine(
            folder,
            tile_px,
            device=device,
            precision=precision,
            graph=graph or GRAPHS[precision][0],
            threads=threads,
            streams=streams,
            batch=batch,
            cache=cache,
        )
    from heatline.edge.inference.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder, tile_px, threads=threads, batch=batch)


def require_supported(kind: EngineKind, precision: Precision, device: str) -> None:
    """Raise an EngineError unless engines of a kind support a precision and a device, on a machine that has them."""
    if kind not in PRECISIONS:
        raise EngineError(f"there is no engine {kind!r}; expected {' or '.join(PRECISIONS)}")
    if precision not in PRECISIONS[kind]:
        raise EngineError(
            f"{kind} cannot compute in {precision}, only in {' or '.join(PRECISIONS[kind])}; choose another engine or "
            "another precision"
        )
    if kind != "openvino" and device != PROCESSOR:
        raise EngineError(f"{kind} cannot compute on {device}, only on {PROCESSOR}; choose another engine or device")
