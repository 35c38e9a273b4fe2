"""All rows, one after the other."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.map_cost.graphs import ModelGraphs
from bench.map_cost.measure import measure
from bench.map_cost.rows import Row, Setting
from bench.pictures import draw_shapes
from edge.errors import HeatlineError
from edge.geometry import TileGrid
from edge.geometry.tiling import TILE_PX
from edge.inference import EngineKind, Precision
from train.config import CnnConfig, VitConfig
from train.models.rollout import Fusion, method_of

ROUNDS = 15
"""Of all graphs of a row in turns."""
SAMPLES = 4
"""Tiles that int8's ranges are found with: what is measured is speed."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was named; of rollouts, nothing is the model's own."""

    fusions: Sequence[Fusion] = ()
    discard_ratios: Sequence[float] = ()
    engines: Sequence[EngineKind] = ("openvino",)
    precisions: Sequence[Precision] = ("f32",)
    batches: Sequence[int] = (1,)


def plan(
    config: CnnConfig | VitConfig,
    asked: Asked,
    *,
    threads: int,
    tile_px: int = TILE_PX,
    rounds: int = ROUNDS,
    tiles: int | None = None,
) -> list[Setting]:
    """A model's rows, map by map."""
    rows = [
        Setting(
            model=config.name,
            method=method,
            fusion=fusion,
            discard_ratio=discard_ratio,
            way="graph",
            engine=engine,
            precision=precision,
            batch=batch,
            tile_px=tile_px,
            threads=threads,
            rounds=rounds,
            tiles=tiles,
        )
        for method, fusion, discard_ratio in _maps(config, asked)
        for engine in asked.engines
        for precision in asked.precisions
        for batch in asked.batches
    ]
    return list(dict.fromkeys(rows))


def _maps(config: CnnConfig | VitConfig, asked: Asked) -> list[tuple[str, Fusion | None, float | None]]:
    """Method, fusion and discard ratio of each."""
    if isinstance(config, CnnConfig):
        return [(config.head, None, None)]
    return [
        (method_of(fusion, ratio), fusion, ratio)
        for fusion in asked.fusions or (config.fusion,)
        for ratio in asked.discard_ratios or (config.discard_ratio,)
    ]


def measured_rows(
    settings: Sequence[Setting], configs: Mapping[str, CnnConfig | VitConfig], say: Callable[[str], None]
) -> Iterator[Row]:
    """Each row as soon as it is measured; what cannot be measured is a row too, with the reason.

    Args:
        configs: by the model's name.
        say: is told what is done.
    Raises:
        HeatlineError: the one row that was asked for cannot be measured.
    """

    @lru_cache(maxsize=1)  # an export takes up to a minute, and serves all rows of a model
    def graphs(model: str, tile_px: int) -> ModelGraphs:
        return ModelGraphs(configs[model], tile_px, drawn_tiles(SAMPLES, tile_px))

    for number, setting in enumerate(settings, 1):
        say(f"{number} of {len(settings)}: {setting.words}")
        at_utc, load = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), [round(one, 2) for one in os.getloadavg()]
        cost, not_done = None, None
        try:
            tiles = drawn_tiles(setting.batch, setting.tile_px)
            cost = measure(setting, graphs(setting.model, setting.tile_px), tiles, say)
        except HeatlineError as error:
            if len(settings) == 1:
                raise
            not_done = str(error)
        yield Row(**msgspec.structs.asdict(setting), cost=cost, not_done=not_done, at_utc=at_utc, load=load)


@cache
def drawn_tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """Tiles of a drawn picture that all is timed on: [count, tile, tile, 3]."""
    image = draw_shapes((1250, 1600), seed=0)
    grid = TileGrid((1250, 1600), tile_px, 2)
    cut = np.empty((len(grid), tile_px, tile_px, 3), np.uint8)
    grid.cut(image, cut)
    return np.ascontiguousarray(np.resize(cut, (count, tile_px, tile_px, 3)))
