"""Which rows are measured."""

from collections.abc import Sequence

import msgspec

from bench.map_cost.rows import Engine, Setting, Way
from edge.inference import Precision
from edge.inference.opening import PRECISIONS
from train.config import CnnConfig, VitConfig
from train.models.rollout import Fusion, method_of

ENGINES: tuple[Engine, ...] = ("openvino", "onnxruntime", "pytorch")
COMPUTES_IN: dict[Engine, tuple[Precision, ...]] = {
    "openvino": PRECISIONS["openvino"],
    "onnxruntime": PRECISIONS["onnxruntime"],
    "pytorch": ("f32",),
}
FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
DISCARD_RATIOS = (0.0, 0.9)
SAME_GRAPH = {"deit_tiny_patch16_224": "vit_tiny_patch16_224"}
"""Models that are another one's graph with other weights, which cost the same: measured where they are named alone."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was named; what is empty was not."""

    fusions: Sequence[Fusion] = ()
    discard_ratios: Sequence[float] = ()
    engines: Sequence[Engine] = ()
    precisions: Sequence[Precision] = ()
    batches: Sequence[int] = (1,)
    everything: bool = False
    """Whether all there is is meant by what was not named. Else it is the model's own rollout, OpenVINO, and f32."""


def plan(
    config: CnnConfig | VitConfig, asked: Asked, *, tile_px: int, threads: int, rounds: int, tiles: int | None
) -> list[Setting]:
    """A model's rows, map by map, pytorch-grad-cam last: its map knows neither fusion nor discard ratio."""
    engines = asked.engines or (ENGINES if asked.everything else ENGINES[:1])

    def rows(engine: Engine, way: Way, method: str, fusion: str | None, discard_ratio: float | None) -> list[Setting]:
        precisions = asked.precisions or (COMPUTES_IN[engine] if asked.everything else ("f32",))
        return [
            Setting(
                model=config.name,
                method=method,
                fusion=fusion,
                discard_ratio=discard_ratio,
                way=way,
                engine=engine,
                precision=precision,
                batch=batch,
                tile_px=tile_px,
                threads=threads,
                rounds=rounds,
                tiles=tiles,
            )
            for precision in dict.fromkeys(precisions)
            for batch in dict.fromkeys(asked.batches)
        ]

    planned: list[Setting] = []
    for method, fusion, discard_ratio in _maps(config, asked):
        for engine in dict.fromkeys(engines):
            way: Way = "hooks" if engine == "pytorch" else "graph"
            planned += rows(engine, way, method, fusion, discard_ratio)
    if "pytorch" in engines:
        planned += rows("pytorch", "grad-cam", "grad-cam", None, None)
    return planned


def _maps(config: CnnConfig | VitConfig, asked: Asked) -> list[tuple[str, Fusion | None, float | None]]:
    """Method, fusion and discard ratio of each."""
    if isinstance(config, CnnConfig):
        return [(config.head, None, None)]
    fusions = asked.fusions or (FUSIONS if asked.everything else (config.fusion,))
    ratios = asked.discard_ratios or (DISCARD_RATIOS if asked.everything else (config.discard_ratio,))
    return [
        (method_of(fusion, ratio), fusion, ratio)
        for fusion in dict.fromkeys(fusions)
        for ratio in dict.fromkeys(ratios)
    ]
