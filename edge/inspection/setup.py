"""What frames are inspected by, exchanged as one between two frames: a frame is never judged by parts of two setups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from edge.bundle import Bundle, VerifiedEngine
from edge.bundle.trusted import Signer
from edge.geometry.region_of_interest import RegionOfInterest
from edge.heatmap_picture import ColourScale
from edge.inspection.inspector import Inspector

Heatmaps = Literal["never", "defect", "always"]
"""Which verdicts carry their heatmap."""


class EngineUses:
    """A reference count of an engine: of the setup in force, of frames whose outcome was not taken yet, and of frames
    that the engine works on. Setups of one engine share it. The reorder buffer alone counts, under its lock.

    Args:
        unused: called once nothing needs the engine any more, under that lock; it must not raise. Whoever took an
            outcome still reads the engine's name and precision, which a closed engine keeps.
    """

    def __init__(self, unused: Callable[[], None] = lambda: None) -> None:
        self._count, self._unused = 0, unused

    def acquire(self) -> None:
        """One more needs it."""
        self._count += 1

    def release(self) -> None:
        """One of them needs it no more."""
        self._count -= 1
        if self._count == 0:
            self._unused()


@dataclass(frozen=True, eq=False)
class Setup:
    """One product's bundle, engine and settings, all of them verified on this machine."""

    bundle: Bundle
    verified: VerifiedEngine
    inspector: Inspector
    signed_by: Signer | None = None
    """None where nobody signed and the configuration allows that."""
    product: str | None = None
    """None on a line that knows no products."""
    areas: Mapping[str, RegionOfInterest] = field(default_factory=dict)
    """Where to look, by camera; the whole frame where there is none."""
    acting: bool = True
    """Whether ejectors may fire on its events."""
    heatmaps: Heatmaps = "never"
    uses: EngineUses = field(default_factory=EngineUses)
    """Who needs its engine; the default closes none."""

    @cached_property
    def scale(self) -> ColourScale:
        """The colours of its heatmaps."""
        return ColourScale.from_calibration(self.bundle.manifest.calibration, self.inspector.thresholds)
