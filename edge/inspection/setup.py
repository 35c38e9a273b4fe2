"""Bundle, engine and settings for inspection, exchanged together between two frames: no frame mixes two setups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.bundle.signature import Signer
from heatline.edge.drift import DriftSetup
from heatline.edge.geometry.region_of_interest import RegionOfInterest
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.inspection.inspector import Inspector

Heatmaps = Literal["never", "defect", "always"]
"""For which verdicts the event carries the heatmap."""


class EngineUses:
    """A reference count of an engine, shared by all setups of that engine. The active setup, each frame whose outcome
    was not popped yet and each frame that the engine works on hold a reference. Only the reorder buffer counts, under
    its lock.

    Args:
        unused: called under that lock once no reference is left; it must not raise. A thread that popped an outcome
            may still read the engine's name and precision, so a closed engine keeps both.
    """

    def __init__(self, unused: Callable[[], None] = lambda: None) -> None:
        self._count, self._unused = 0, unused

    def acquire(self) -> None:
        """Add a reference."""
        self._count += 1

    def release(self) -> None:
        """Drop a reference."""
        self._count -= 1
        if self._count == 0:
            self._unused()


@dataclass(frozen=True, eq=False)
class Setup:
    """One product's bundle, engine and settings, all verified on this machine."""

    bundle: Bundle
    verified: VerifiedEngine
    inspector: Inspector
    signed_by: Signer | None = None
    """None: the bundle is not signed, and the configuration allows that."""
    product: str | None = None
    """None: the line has no products."""
    areas: Mapping[str, RegionOfInterest] = field(default_factory=dict)
    """Regions of interest by camera; a camera without one is inspected over the whole frame."""
    acting: bool = True
    """Whether ejectors may act on its events."""
    heatmaps: Heatmaps = "never"
    drift: DriftSetup = field(default_factory=DriftSetup)
    """What its frames are compared with; the default watches no camera."""
    uses: EngineUses = field(default_factory=EngineUses)
    """The reference count of its engine; the default closes no engine."""

    @cached_property
    def scale(self) -> ColourScale:
        """The colour scale of its heatmaps."""
        return ColourScale.around(self.inspector.thresholds.evidence, self.bundle.manifest.calibration.background)
