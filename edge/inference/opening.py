"""How an engine is opened: the one place that knows all kinds. Each kind's library is imported only when it is used."""

from collections.abc import Mapping
from pathlib import Path

from edge.errors import EngineError
from edge.inference.engine import GRAPHS, PROCESSOR, Engine, EngineKind, Keeper, Precision

PRECISIONS: Mapping[EngineKind, tuple[Precision, ...]] = {"openvino": ("f32", "bf16", "int8"), "onnxruntime": ("f32",)}
"""What each kind can compute in, if the processor can."""


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
    keeper: Keeper | None = None,
) -> Engine:
    """A graph in a bundle's folder, compiled by an engine of this kind to compute in this precision, or not at all.

    Args:
        tile_px: side of a tile, px.
        device: what it computes on, as OpenVINO names it, such as GPU.
        graph: the IR that OpenVINO compiles; None: the precision's usual one. ONNX Runtime has but one graph.
        threads: processor threads in all; 0: as many as there are cores.
        streams: requests worked on side by side (OpenVINO); 0: one per thread.
        batch: tiles per request; 0: what is fastest for this kind.
        keeper: of compiled graphs; None: none is kept. ONNX Runtime compiles in no time.
    Raises:
        EngineError: it does not load or compile, or cannot compute in this precision or on this device.
    """
    require_precision(kind, precision)
    require_device(kind, device)
    if kind == "openvino":
        try:
            from edge.inference.openvino_engine import OpenVinoEngine
        except Exception as error:  # openvino looks for a home directory, among other things, when it is imported
            raise EngineError(
                f"OpenVINO cannot be imported ({error}); mend its installation (it needs HOME to be set) or choose "
                'engine.kind = "onnxruntime"'
            ) from error

        graph = graph or GRAPHS[precision][0]
        return OpenVinoEngine(
            folder,
            tile_px,
            device=device,
            precision=precision,
            graph=graph,
            threads=threads,
            streams=streams,
            batch=batch,
            keeper=keeper,
        )
    from edge.inference.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder, tile_px, threads=threads, batch=batch)


def require_precision(kind: EngineKind, precision: Precision) -> None:
    """See that engines of a kind can compute in a precision, on whatever processor.

    Raises:
        EngineError: they cannot, or there is no such kind.
    """
    if kind not in PRECISIONS:
        raise EngineError(f"there is no engine {kind!r}; expected {' or '.join(PRECISIONS)}")
    if precision not in PRECISIONS[kind]:
        raise EngineError(
            f"{kind} was asked for {precision}, it computes in {' or '.join(PRECISIONS[kind])} alone; choose another "
            "engine or another precision"
        )


def require_device(kind: EngineKind, device: str) -> None:
    """See that engines of a kind can compute on a device, if the machine has it.

    Raises:
        EngineError: they cannot.
    """
    if kind != "openvino" and device != PROCESSOR:
        raise EngineError(
            f"{kind} was asked for {device}, it computes on {PROCESSOR} alone; choose another engine or device"
        )
