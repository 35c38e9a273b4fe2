"""What a map costs: the fused graph beside the same classifier exported bare, in turns, in one process.

The bare classifier is the faster of what an exporter would make: for a ViT, with its attention as one node per layer or
as the products and the softmax that it stands for. Each graph runs as on the line: OpenVINO with a stream per core and
one request more, ONNX Runtime with all cores on one request. bf16 and int8 are as OpenVINO and NNCF make them by
themselves; a bundle's keep some layers in f32.
"""

import statistics
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.spread import Spread
from bench.turns import Run, in_turns
from edge.errors import BenchError
from edge.inference import EngineKind, Precision
from edge.inference.opening import require_precision
from train.config import CnnConfig, VitConfig


class MapCost(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and of what."""

    model: str
    method: str
    """How the map is made."""
    engine: EngineKind
    precision: Precision
    batch: int
    tile_px: int
    threads: int
    bare: str
    """Which bare classifier was the faster one."""
    rounds: int
    tiles_per_round: int
    ratio: float
    """Median time of the fused graph over that of the bare classifier."""
    ratio_spread: Spread
    """Of the same ratio round by round."""
    fused_ms_per_tile: Spread
    bare_ms_per_tile: Spread
    fused_tiles_per_s: float
    """At the median."""


def measure_map_cost(
    config: CnnConfig | VitConfig,
    *,
    engine: EngineKind,
    precision: Precision,
    batch: int,
    tile_px: int,
    threads: int,
    rounds: int,
    tiles_per_round: int,
    say: Callable[[str], None],
) -> MapCost:
    """Time a model from a random start, which costs what a trained one does.

    Raises:
        BenchError: the processor has no such precision, or the engine cannot run the graph.
        EngineError: the engine never has that precision.
        ConfigError, ExportError: the model cannot be built or exported.
    """
    import torch

    from train.models.build import build_model

    require_precision(engine, precision)
    torch.manual_seed(0)
    model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
    tiles = _tiles(batch, tile_px)
    runs = {
        name: _in_onnxruntime(graph, tiles, threads)
        if engine == "onnxruntime"
        else _in_openvino(graph, precision, tiles, threads, transformer=config.family == "vit")
        for name, graph in _export(model, tile_px, engine, precision, say).items()
    }
    say(f"timing {', '.join(runs)} in turns, {rounds} rounds")
    batches = max(1, tiles_per_round // batch)
    seconds = in_turns(runs, rounds, batches)
    per_tile = {name: [one / (batches * batch) for one in of] for name, of in seconds.items()}
    fused = per_tile.pop("fused")
    bare = min(per_tile, key=lambda name: statistics.median(per_tile[name]))
    ratios = [one / other for one, other in zip(fused, per_tile[bare], strict=True)]
    median = statistics.median(fused)
    return MapCost(
        model=config.name,
        method=model.method,
        engine=engine,
        precision=precision,
        batch=batch,
        tile_px=tile_px,
        threads=threads,
        bare=bare,
        rounds=rounds,
        tiles_per_round=batches * batch,
        ratio=median / statistics.median(per_tile[bare]),
        ratio_spread=Spread.of(ratios),
        fused_ms_per_tile=Spread.of([one * 1e3 for one in fused]),
        bare_ms_per_tile=Spread.of([one * 1e3 for one in per_tile[bare]]),
        fused_tiles_per_s=1 / median,
    )


def _export(
    model: Any, tile_px: int, engine: EngineKind, precision: Precision, say: Callable[[str], None]
) -> dict[str, bytes]:
    from export.onnx_graph import to_bare_onnx, to_graphs
    from train.models.vit import RolloutClassifier

    say(f"exporting {model.method} and the classifier alone")
    graphs = to_graphs(model, tile_px)
    for_openvino = graphs.for_openvino_bf16 if precision == "bf16" else graphs.for_openvino
    exported = {"fused": for_openvino if engine == "openvino" else graphs.onnx}
    if isinstance(model, RolloutClassifier):
        return exported | {
            "fused attention": to_bare_onnx(model, tile_px, "fused"),
            "explicit attention": to_bare_onnx(model, tile_px, "explicit"),
        }
    return exported | {"pooling": to_bare_onnx(model, tile_px)}


def _tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """[count, tile, tile, 3] of drawn boards."""
    from edge.geometry import TileGrid
    from train.boards import draw_board

    image = draw_board((0, 0), flawless=False).image
    grid = TileGrid((image.shape[0], image.shape[1]), tile_px, 2)
    cut = np.empty((len(grid), tile_px, tile_px, 3), np.uint8)
    grid.cut(image, cut)
    return np.ascontiguousarray(np.resize(cut, (count, tile_px, tile_px, 3)))


def _in_onnxruntime(graph: bytes, tiles: NDArray[np.uint8], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads spin for a while by default: those of the graph that ran before, on the cores that this one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise BenchError(f"ONNX Runtime cannot run the graph: {error}") from error

    def run(batches: int) -> None:
        for _ in range(batches):
            session.run(None, {"tiles": tiles})

    return run


def _in_openvino(
    graph: bytes, precision: Precision, tiles: NDArray[np.uint8], threads: int, *, transformer: bool
) -> Run:
    import openvino

    from export.openvino_ir import to_ir
    from export.quantise import Quantisation, quantise

    ir = to_ir(graph)
    if precision == "int8":
        ir = quantise(ir, tiles, Quantisation(), transformer=transformer)
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
    }
    try:
        model = ir.read()
        model.reshape({"tiles": list(tiles.shape)})
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise BenchError(f"OpenVINO cannot run the graph: {error}") from error
    computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if computes_in != hint:
        raise BenchError(
            f"this processor has no {hint}, OpenVINO computes in {computes_in}; choose another --precision"
        )
    requests = openvino.AsyncInferQueue(compiled, threads + 1)
    for request in requests:
        request.set_tensor("tiles", openvino.Tensor(tiles))

    def run(batches: int) -> None:
        for _ in range(batches):
            requests.start_async()
        requests.wait_all()

    return run
