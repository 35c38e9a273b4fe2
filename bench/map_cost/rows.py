"""What is measured of a map's cost, and what came of it."""

from typing import Literal

import msgspec

from bench.spread import Spread
from edge.inference import EngineKind, Precision

Way = Literal["graph", "hooks", "grad-cam"]
"""Classifier and map as one graph, as the line runs them; in files of before also how others have a map of the same
network in PyTorch, by hooks or by pytorch-grad-cam."""
Engine = EngineKind | Literal["pytorch"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row, before it is measured."""

    model: str
    method: str
    """The map, as a manifest calls it: `cam`, `rollout-max-discard-0.9`; or `grad-cam`."""
    fusion: str | None
    """Of a ViT's heads; None where the map has none, as `discard_ratio`."""
    discard_ratio: float | None
    way: Way
    engine: Engine
    precision: Precision
    batch: int
    """Tiles per request."""
    tile_px: int
    threads: int
    rounds: int
    tiles: int | None = None
    """Per graph and round; None: as many as take half a second."""

    @property
    def words(self) -> str:
        """For people, in one line."""
        with_what = self.engine if self.way == "graph" else f"{self.engine} with {self.way}"
        map_ = "" if self.method == self.way else f", {self.method}"
        return f"{self.model}{map_}: {with_what}, {self.precision}, batches of {self.batch}"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one row came to."""

    bare: str
    """What the classifier alone was: the fastest of its kind."""
    tiles_per_round: int
    """Of each, in whole batches."""
    ratio: float
    """Median time with a map over that of the classifier alone."""
    ratio_spread: Spread
    """Of the same ratio round by round."""
    map_ms_per_tile: Spread
    """Of classifier and map."""
    bare_ms_per_tile: Spread
    map_tiles_per_s: float
    """At the median."""


class Row(Setting, frozen=True, kw_only=True):
    """A setting with its cost, or with why there is none."""

    cost: Cost | None = None
    not_done: str | None = None
    at_utc: str | None = None
    """When it began; a file may hold rows of several days. None: that was not noted yet."""
    load: list[float] | None = None
    """Mean number of processes that ran or waited then, over 1, 5 and 15 minutes."""


class MapCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What a result file holds beside its machine."""

    rows: list[Row]
