"""What `heatline bench flops` found, as it stands in its file. To be read it needs no PyTorch."""

import msgspec


class MapAdds(msgspec.Struct, frozen=True, kw_only=True):
    """What a map adds to the classifier, per tile."""

    method: str
    macs: int
    operations: dict[str, int] | None = None
    """Of a rollout in files of before: all that an engine's graph does for it, multiply-adds as two."""


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """One system, one tile."""

    model: str
    timm: str
    map_hw: tuple[int, int]
    parameters: int
    """The same with a map and without: a map has none of its own."""
    macs: int
    """Of the classifier alone."""
    gflops: float
    macs_with_map: int
    """The same for every fusion and discard ratio: neither is a product."""
    gflops_with_map: float
    maps: list[MapAdds]
    study_gflops: float | None
    """As Table 1.1 prints it: multiply-adds."""


class FlopsBench(msgspec.Struct, frozen=True, kw_only=True):
    """All systems."""

    tile_px: int
    units: str
    study: str
    systems: list[Flops]
