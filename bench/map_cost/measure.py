"""Time the same tiles with a map and without, in interleaved rounds, row by row.

OpenVINO has a stream per core and one request more; ONNX Runtime uses all cores for one request.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.bench.bare_engine import BareEngine
from heatline.bench.map_cost.graphs import WITH_MAP, ModelGraphs
from heatline.bench.map_cost.plan import Cost, Row, Setting
from heatline.bench.pictures import draw_shapes
from heatline.bench.spread import SETTLE_BATCHES, Spread, time_interleaved
from heatline.edge.bundle.pooling import identity_of, pool
from heatline.edge.errors import BenchError, HeatlineError
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Precision
from heatline.edge.inference.devices import require_bf16, shared_core
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.inference.opening import require_precision
from heatline.export.openvino_ir import Ir
from heatline.train.config import CnnConfig, VitConfig

SECONDS_PER_ROUND = 0.5
SAMPLES = 4
"""Tiles for the ranges of int8, a few, as only the speed is measured."""
OFF: dict[Precision, float] = {"f32": 2e-3, "bf16": 0.05, "int8": 0.05}
"""Allowed difference between a map's mean and the logit, as a share of the map's highest value."""
OFF_BY_A_DISCARD = 0.1
"""Allowed difference from PyTorch's map in f32: the last digits decide which of two similar entries is discarded."""

Answers = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Logits [N], and maps [N, h, w] where there are any."""


class InOpenVino:
    """A graph in OpenVINO.

    Raises:
        BenchError: OpenVINO cannot run the graph.
        PrecisionError: the processor has no such precision.
    """

    def __init__(self, ir: Ir, precision: Precision, tiles: NDArray[np.uint8], threads: int) -> None:
        self._engine = BareEngine(ir.read(), precision, tiles, threads=threads, streams=threads)
        self._engine.run(threads + 1)  # so that every request has an answer

    def __call__(self, batches: int) -> None:
        self._engine.run(batches)

    def answers(self) -> list[Answers]:
        return [(one["logit"], one.get("map")) for one in self._engine.answers()]


class InOnnxRuntime:
    """A graph in ONNX Runtime.

    Raises:
        BenchError: ONNX Runtime cannot run the graph.
    """

    def __init__(self, graph: bytes, tiles: NDArray[np.uint8], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Idle threads spin by default, and those of the graph that ran before would use the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base
            raise BenchError(f"ONNX Runtime cannot run the graph: {error}") from error
        self._names = [output.name for output in self._session.get_outputs()]
        self._tiles = tiles
        self(1)

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._last = self._session.run(None, {"tiles": self._tiles})

    def answers(self) -> list[Answers]:
        found = dict(zip(self._names, self._last, strict=True))
        return [(found["logit"], found.get("map"))]


Timed = InOpenVino | InOnnxRuntime


def measured_rows(
    settings: Sequence[Setting], configs: Mapping[str, CnnConfig | VitConfig], report_line: Callable[[str], None]
) -> Iterator[Row]:
    """Yield each row as soon as it is measured; a row that cannot be measured has the reason.

    Args:
        configs: by the model's name.
        report_line: takes a line of progress.
    Raises:
        HeatlineError: there is one row, and it cannot be measured.
    """

    @lru_cache(maxsize=1)  # an export takes up to a minute, and serves all rows of a model
    def graphs(model: str, tile_px: int) -> ModelGraphs:
        return ModelGraphs(configs[model], tile_px, drawn_tiles(SAMPLES, tile_px))

    for number, setting in enumerate(settings, 1):
        report_line(f"{number} of {len(settings)}: {setting.describe()}")
        at_utc, load = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), [round(one, 2) for one in os.getloadavg()]
        cost, not_done = None, None
        try:
            tiles = drawn_tiles(setting.batch, setting.tile_px)
            cost = measure(setting, graphs(setting.model, setting.tile_px), tiles, report_line)
        except HeatlineError as error:
            if len(settings) == 1:
                raise
            not_done = str(error)
        yield Row(**msgspec.structs.asdict(setting), cost=cost, not_done=not_done, at_utc=at_utc, load=load)


@cache
def drawn_tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """Cut tiles of a drawn picture: [count, tile, tile, 3]."""
    image = draw_shapes((1250, 1600), seed=0)
    grid = TileGrid((1250, 1600), tile_px, 2)
    cut = np.empty((len(grid), tile_px, tile_px, 3), np.uint8)
    grid.cut(image, cut)
    return np.ascontiguousarray(np.resize(cut, (count, tile_px, tile_px, 3)))


def measure(
    setting: Setting, graphs: ModelGraphs, tiles: NDArray[np.uint8], report_line: Callable[[str], None]
) -> Cost:
    """Time one row.

    Args:
        tiles: uint8 [batch, tile, tile, 3].
        report_line: takes a line of progress.
    Raises:
        PrecisionError, EngineError: the processor or the engine has no such precision.
        BenchError: a graph cannot run, or answers wrongly.
        ExportError: the model cannot be exported.
    """
    require_precision(setting.engine, setting.precision)
    if setting.engine == "openvino" and setting.precision == "bf16":
        require_bf16(shared_core(), PROCESSOR)
    report_line("exporting")
    exported = graphs.onnx(setting)
    report_line("compiling")
    runs: dict[str, Timed] = {}
    for name, graph in exported.items():
        if setting.engine == "openvino":
            ir = graphs.ir(graph, setting.precision)
            runs[name] = InOpenVino(ir, setting.precision, tiles, setting.threads)
        else:
            runs[name] = InOnnxRuntime(graph, tiles, setting.threads)
    model = graphs.model(setting)
    with torch.inference_mode():
        logits, maps = (one.numpy() for one in model(torch.from_numpy(tiles)))

    def wrong() -> str | None:
        for name, run in runs.items():
            for answers in run.answers():
                fault = find_wrong_answer(
                    logits, maps, answers, setting, has_map=name == WITH_MAP, top_cells=model.top_cells
                )
                if fault is not None:
                    return f"{fault} ({name})"
        return None

    if fault := wrong():  # before the rounds, which take long
        raise BenchError(f"{setting.describe()}: not timed, as {fault}")
    cost = _timed(setting, runs, report_line)
    if fault := wrong():
        raise BenchError(f"{setting.describe()}: its time counts for nothing, as after the rounds {fault}")
    return cost


def _timed(setting: Setting, runs: Mapping[str, Timed], report_line: Callable[[str], None]) -> Cost:
    bare = [name for name in runs if name != WITH_MAP]
    batches = _batches_per_round(runs[bare[0]])
    report_line(f"timing {', '.join(runs)} in {setting.rounds} interleaved rounds")
    seconds = time_interleaved(runs, setting.rounds, batches)
    count = batches * setting.batch
    per_tile = {name: [one / count for one in of] for name, of in seconds.items()}
    with_map = per_tile[WITH_MAP]
    fastest = min(bare, key=lambda name: statistics.median(per_tile[name]))
    ratios = [one / other for one, other in zip(with_map, per_tile[fastest], strict=True)]
    median = statistics.median(with_map)
    return Cost(
        bare=fastest,
        tiles_per_round=count,
        ratio=median / statistics.median(per_tile[fastest]),
        ratio_spread=Spread.of(ratios),
        map_ms_per_tile=Spread.of([one * 1e3 for one in with_map]),
        bare_ms_per_tile=Spread.of([one * 1e3 for one in per_tile[fastest]]),
        map_tiles_per_s=1 / median,
    )


def _batches_per_round(run: Timed) -> int:
    """Return the number of batches that take about `SECONDS_PER_ROUND`."""
    run(1)
    began = perf_counter()
    run(SETTLE_BATCHES)
    return max(1, round(SECONDS_PER_ROUND * SETTLE_BATCHES / (perf_counter() - began)))


def find_wrong_answer(
    true_logits: NDArray[np.float32],
    true_maps: NDArray[np.float32],
    answers: Answers,
    setting: Setting,
    *,
    has_map: bool,
    top_cells: int | None = None,
) -> str | None:
    """Return what is wrong with a graph's answers; None: nothing.

    In bf16 and int8 the pooled map need only be the logit: a random network's maps are far from those in f32.

    Args:
        true_logits, true_maps: of the model in f32: [N] and [N, h, w].
        top_cells: of the model's identity. If it has one, the classifier alone has another layer and other logits.
    """
    scale, allowed = np.abs(true_maps).max(), OFF[setting.precision]
    logits, maps = answers
    if not np.isfinite(logits).all():
        return "its logits are not finite"
    comparable = has_map or top_cells is None
    if comparable and setting.precision == "f32" and (off := np.abs(logits - true_logits).max() / scale) > allowed:
        return f"its logits differ from the model's by {off:.1e}"
    if not has_map:
        return None
    if maps is None or maps.shape != true_maps.shape or not maps.any():
        return "it gives no maps"
    if not (off := np.abs(pool(maps, top_cells) - logits).max() / np.abs(maps).max()) <= allowed:
        return f"{identity_of(top_cells)} is off by {off:.1e}"
    allowed = OFF_BY_A_DISCARD if setting.discard_ratio else allowed
    if setting.precision == "f32" and (off := np.abs(maps - true_maps).max() / scale) > allowed:
        return f"its maps differ from the model's by {off:.1e}"
    return None
