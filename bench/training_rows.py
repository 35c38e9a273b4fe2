"""What `heatline bench training` found, as it stands in its file. To be read it needs no PyTorch."""

import msgspec

from bench.spread import Spread


class TrainingThroughput(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and of what."""

    model: str
    recipe: str
    data: str
    tile_px: int
    tiles_per_batch: float
    """On average."""
    workers: int
    precision: str
    device: str
    threads: int
    """Of torch."""
    versions: dict[str, str]
    steps: int
    """Timed per repetition and kind."""
    repetitions: int
    real_tiles_per_s: Spread
    random_tiles_per_s: Spread
    real_to_random: Spread
    """Of each repetition's two figures."""
    drawing_ms_per_batch: float
    """Median of making a batch, without loader and step."""
    drawing_shares: dict[str, float]
    """Share of that time in each function of `train`, with what it calls, by a profiler that makes calls dearer."""
    runs: list[dict[str, float]]
    """Tiles per second of each repetition, real and random."""


def to_facts(found: TrainingThroughput) -> dict[str, object]:
    """The same for people."""
    return {
        "figures": f"median (lowest to highest) of {found.repetitions} repetitions of {found.steps} steps",
        "real batches": f"{found.real_tiles_per_s:.1f} tiles/s",
        "random tensors": f"{found.random_tiles_per_s:.1f} tiles/s",
        "real / random": f"{found.real_to_random:.3f}",
        "drawing a batch": f"{found.drawing_ms_per_batch:.1f} ms for {found.tiles_per_batch:.0f} tiles",
        "of that": ", ".join(f"{name} {share:.0%}" for name, share in found.drawing_shares.items()),
        "on": f"{found.device} in {found.precision}, {found.threads} threads, {found.workers} workers",
    }
