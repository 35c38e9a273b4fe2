"""The rows to measure, and their results."""

from collections.abc import Sequence

import msgspec

from heatline.bench.spread import Spread
from heatline.edge.geometry.tiling import TILE_PX
from heatline.edge.inference import EngineKind, Precision
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.vit import Fusion, method_of

ROUNDS = 15
"""Interleaved rounds of all graphs of a row."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a row."""

    model: str
    method: str
    """Method of the map, as in a manifest: `cam`, `rollout-max-discard-0.9`."""
    fusion: str | None
    """Fusion of a ViT's heads; None if the map has none, as `discard_ratio`."""
    discard_ratio: float | None
    engine: EngineKind
    precision: Precision
    batch: int
    """Tiles per request."""
    tile_px: int
    threads: int
    rounds: int

    def describe(self) -> str:
        """Describe the settings in one line."""
        return f"{self.model}, {self.method}: {self.engine}, {self.precision}, batches of {self.batch}"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a row."""

    bare: str
    """The fastest form of the classifier alone."""
    tiles_per_round: int
    """Tiles of each graph in a round, in whole batches."""
    ratio: float
    """Median time with a map over that of the classifier alone."""
    ratio_spread: Spread
    """The same ratio by rounds."""
    map_ms_per_tile: Spread
    """Of classifier and map."""
    bare_ms_per_tile: Spread
    map_tiles_per_s: float
    """At the median time."""


class Row(Setting, frozen=True, kw_only=True):
    """Settings with their result, or the reason why there is none."""

    cost: Cost | None = None
    not_done: str | None = None
    at_utc: str
    """Time of the start; a file may hold rows of several days."""
    load: list[float]
    """Mean number of processes that ran or waited then, over 1, 5 and 15 minutes."""


class MapCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a result file, besides the machine."""

    rows: list[Row]


def plan(
    config: CnnConfig | VitConfig,
    *,
    threads: int,
    fusions: Sequence[Fusion] = (),
    discard_ratios: Sequence[float] = (),
    engines: Sequence[EngineKind] = ("openvino",),
    precisions: Sequence[Precision] = ("f32",),
    batches: Sequence[int] = (1,),
    tile_px: int = TILE_PX,
    rounds: int = ROUNDS,
) -> list[Setting]:
    """Return the rows of a model, map by map.

    Args:
        fusions, discard_ratios: of a ViT's rollouts; empty: those of the model.
    """
    maps: list[tuple[str, Fusion | None, float | None]] = (
        [(config.head, None, None)]
        if isinstance(config, CnnConfig)
        else [
            (method_of(fusion, ratio), fusion, ratio)
            for fusion in fusions or (config.fusion,)
            for ratio in discard_ratios or (config.discard_ratio,)
        ]
    )
    rows = [
        Setting(
            model=config.name,
            method=method,
            fusion=fusion,
            discard_ratio=discard_ratio,
            engine=engine,
            precision=precision,
            batch=batch,
            tile_px=tile_px,
            threads=threads,
            rounds=rounds,
        )
        for method, fusion, discard_ratio in maps
        for engine in engines
        for precision in precisions
        for batch in batches
    ]
    return list(dict.fromkeys(rows))
