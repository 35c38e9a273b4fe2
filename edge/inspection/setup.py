"""Bundle, engine and settings for inspection, exchanged together between two frames: no frame mixes two setups."""

from collections.abc import Mapping
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

    @cached_property
    def scale(self) -> ColourScale:
        """The colour scale of its heatmaps."""
        return ColourScale.around(self.inspector.thresholds.evidence, self.bundle.manifest.calibration.background)
