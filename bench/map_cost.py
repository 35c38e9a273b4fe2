"""`heatline bench map-cost`: the cost of a map, compared with the same classifier alone, for each model in OpenVINO.

Both are timed in interleaved rounds in one process, with a stream per core and one request more. The classifier alone
is the fastest variant: for a ViT, attention is one node per layer, or its products and softmax.
"""

import io
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cached_property, lru_cache
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from heatline.bench.engines import BareEngine
from heatline.bench.pictures import draw_shapes
from heatline.bench.spread import SETTLE_BATCHES, Spread, time_interleaved
from heatline.edge.bundle.pooling import identity_of, pool
from heatline.edge.errors import BenchError, HeatlineError
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.tiling import TILE_PX
from heatline.edge.inference import Precision
from heatline.edge.inference.devices import require_bf16, shared_core
from heatline.edge.inference.engine import PROCESSOR
from heatline.export.onnx_graph import Graphs, export_module, to_attention, to_graphs, with_rollout
from heatline.export.openvino_ir import Ir, to_ir
from heatline.export.quantise import VARIANTS, quantise
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import build_model
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import Fusion, RolloutClassifier, method_of

WITH_MAP = "with map"
ROUNDS, SECONDS_PER_ROUND = 15, 0.5
SAMPLES = 4
"""Tiles for the ranges of int8, a few, as only the speed is measured."""
OFF: dict[Precision, float] = {"f32": 2e-3, "bf16": 0.05, "int8": 0.05}
"""Allowed difference between a map's mean and the logit, as a share of the map's highest value."""
OFF_BY_A_DISCARD = 0.1
"""Allowed difference from PyTorch's map in f32: the last digits decide which of two similar entries is discarded."""
Answers = Mapping[str, NDArray[np.float32]]
"""`logit` [N], and `map` [N, h, w] where there are maps."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with their result, or the reason why there is none."""

    model: str
    method: str
    """Method of the map, as in a manifest: `cam`, `rollout-max-discard-0.9`."""
    fusion: Fusion | None
    """Fusion of a ViT's heads; None if the map has none, as `discard_ratio`."""
    discard_ratio: float | None
    precision: Precision
    batch: int
    """Tiles per request."""
    tile_px: int = TILE_PX
    rounds: int = ROUNDS
    ratio: Spread | None = None
    """Time with a map over that of the classifier alone, by rounds."""
    map_ms_per_tile: Spread | None = None
    """Of classifier and map."""
    bare_ms_per_tile: Spread | None = None
    bare: str = ""
    """The fastest form of the classifier alone."""
    not_done: str | None = None

    def __str__(self) -> str:
        return f"{self.model}, {self.method}: {self.precision}, batches of {self.batch}"


class MapCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a result file, besides the machine."""

    rows: list[Row]


def plan(
    config: CnnConfig | VitConfig,
    *,
    fusions: Sequence[Fusion] = (),
    discard_ratios: Sequence[float] = (),
    precisions: Sequence[Precision] = ("f32",),
    batches: Sequence[int] = (1,),
    tile_px: int = TILE_PX,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Return the rows of a model, map by map.

    Args:
        fusions, discard_ratios: of a ViT's rollouts; empty: those of the model.
    """
    maps: list[tuple[str, Fusion | None, float | None]]
    if isinstance(config, CnnConfig):
        maps = [(config.head, None, None)]
    else:
        maps = [
            (method_of(fusion, ratio), fusion, ratio)
            for fusion in fusions or (config.fusion,)
            for ratio in discard_ratios or (config.discard_ratio,)
        ]
    return [
        Row(
            model=config.name,
            method=method,
            fusion=fusion,
            discard_ratio=discard_ratio,
            precision=precision,
            batch=batch,
            tile_px=tile_px,
            rounds=rounds,
        )
        for method, fusion, discard_ratio in dict.fromkeys(maps)
        for precision in dict.fromkeys(precisions)
        for batch in dict.fromkeys(batches)
    ]


def measured_rows(
    settings: Sequence[Row], configs: Mapping[str, CnnConfig | VitConfig], report_line: Callable[[str], None]
) -> Iterator[Row]:
    """Yield each row as soon as it is measured; a row that cannot be measured has the reason.

    Args:
        configs: by the model's name.
    Raises:
        HeatlineError: there is one row, and it cannot be measured.
    """

    @lru_cache(maxsize=1)  # an export takes up to a minute, and serves all rows of a model
    def graphs(model: str, tile_px: int) -> ModelGraphs:
        return ModelGraphs(configs[model], tile_px)

    for number, setting in enumerate(settings, 1):
        report_line(f"{number} of {len(settings)}: {setting}")
        try:
            yield measure(setting, graphs(setting.model, setting.tile_px))
        except HeatlineError as error:
            if len(settings) == 1:
                raise
            yield msgspec.structs.replace(setting, not_done=str(error))


class ModelGraphs:
    """A model with random weights, which is as fast as a trained one, and its graphs.

    Raises:
        ConfigError: it cannot be built for such tiles.
    """

    def __init__(self, config: CnnConfig | VitConfig, tile_px: int) -> None:
        self._config, self._tile_px = msgspec.structs.replace(config, weights="none"), tile_px
        self._model = self._build(self._config)
        self._fused: dict[str, Graphs] = {}

    def model(self, setting: Row) -> ExplainedClassifier:
        """Return the model with the setting's map; its weights are the same for every map."""
        if not isinstance(self._config, VitConfig) or setting.fusion is None:
            return self._model
        changed = {"fusion": setting.fusion, "discard_ratio": setting.discard_ratio}
        return self._build(msgspec.structs.replace(self._config, **changed))

    def irs(self, setting: Row) -> dict[str, Ir]:
        """Return the classifier with its map, and the classifier alone, of a ViT in both variants; int8 is made by
        NNCF's defaults.

        Raises:
            ExportError: a graph cannot be exported, converted or quantised.
        """
        model = self.model(setting)
        if model.method not in self._fused:
            self._fused[model.method] = (
                with_rollout(self._attention, model)
                if isinstance(model, RolloutClassifier)
                else to_graphs(model, self._tile_px)
            )
        fused = self._fused[model.method]
        graphs = {WITH_MAP: fused.for_bf16 if setting.precision == "bf16" else fused.onnx}
        graphs["fused attention" if isinstance(model, RolloutClassifier) else "pooling"] = self._bare
        if isinstance(model, RolloutClassifier):
            graphs["explicit attention"] = self._attention.SerializeToString(deterministic=True)
        irs = {name: to_ir(graph) for name, graph in graphs.items()}
        if setting.precision == "int8":
            samples, is_vit = drawn_tiles(SAMPLES, self._tile_px), self._config.family == "vit"
            with redirect_stderr(io.StringIO()):  # NNCF draws bars
                irs = {name: quantise(ir, (samples,), VARIANTS[0], transformer=is_vit) for name, ir in irs.items()}
        return irs

    def _build(self, config: CnnConfig | VitConfig) -> ExplainedClassifier:
        torch.manual_seed(0)
        return build_model(config, self._tile_px)[0].eval()

    @cached_property
    def _attention(self) -> ModelProto:
        assert isinstance(self._model, RolloutClassifier)
        return to_attention(self._model, self._tile_px)

    @cached_property
    def _bare(self) -> bytes:
        """The classifier as other projects export it: `tiles` in, `logit` out."""
        exported = export_module(_Bare(self._model), self._tile_px, ["logit"])
        return exported.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


class _Bare(nn.Module):
    """A usual classifier: features, pooling and one Linear layer, or a ViT's class token and its head."""

    def __init__(self, model: ExplainedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, CamClassifier) and model.top_cells is None:
            pooled = model.features(model.normalised(tiles)).mean(dim=(2, 3))  # (N, channels)
            return nn.functional.linear(pooled, model.head.weight.flatten(1), model.head.bias)[:, 0]
        if isinstance(model, DenseClassifier):  # its features of stride 16, and the sum instead of a Linear layer
            return model.features(tiles)[-1].mean(dim=(2, 3)).sum(dim=1)
        return model.logits(tiles)


def drawn_tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """Cut tiles of a drawn picture: [count, tile, tile, 3]."""
    image = draw_shapes((1250, 1600), seed=0)
    tiles = TileGrid((1250, 1600), tile_px, 2).tiles(image)
    return np.ascontiguousarray(np.resize(tiles, (count, tile_px, tile_px, 3)))


def measure(setting: Row, graphs: ModelGraphs) -> Row:
    """Time one row.

    Raises:
        PrecisionError: the processor has no such precision.
        BenchError: a graph cannot run, or answers wrongly.
        ExportError: the model cannot be exported.
    """
    if setting.precision == "bf16":
        require_bf16(shared_core(), PROCESSOR)  # before the exports, which take long
    tiles, threads = drawn_tiles(setting.batch, setting.tile_px), len(os.sched_getaffinity(0))
    engines = {
        name: BareEngine(ir.read(), setting.precision, tiles, threads=threads, streams=threads)
        for name, ir in graphs.irs(setting).items()
    }
    model = graphs.model(setting)
    with torch.inference_mode():
        logits, maps = (one.numpy() for one in model(torch.from_numpy(tiles)))

    def require_right() -> None:
        for name, engine in engines.items():
            for answers in engine.answers():
                fault = find_wrong_answer(
                    logits, maps, answers, setting, has_map=name == WITH_MAP, top_cells=model.top_cells
                )
                if fault is not None:
                    raise BenchError(f"{setting}: its time counts for nothing, as {fault} ({name})")

    for engine in engines.values():
        engine.run(threads + 1)  # so that every request has an answer
    require_right()  # before the rounds, which take long
    began = perf_counter()
    engines[WITH_MAP].run(SETTLE_BATCHES)
    batches = max(1, round(SECONDS_PER_ROUND * SETTLE_BATCHES / (perf_counter() - began)))
    seconds = time_interleaved({name: engine.run for name, engine in engines.items()}, setting.rounds, batches)
    require_right()
    ms = {name: [1e3 * one / (batches * setting.batch) for one in of] for name, of in seconds.items()}
    with_map = ms.pop(WITH_MAP)
    bare = min(ms, key=lambda name: statistics.median(ms[name]))
    return msgspec.structs.replace(
        setting,
        ratio=Spread.of([one / other for one, other in zip(with_map, ms[bare], strict=True)]),
        map_ms_per_tile=Spread.of(with_map),
        bare_ms_per_tile=Spread.of(ms[bare]),
        bare=bare,
    )


def find_wrong_answer(
    true_logits: NDArray[np.float32],
    true_maps: NDArray[np.float32],
    answers: Answers,
    setting: Row,
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
    logits, maps = answers["logit"], answers.get("map")
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
