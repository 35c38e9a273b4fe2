"""Setups of the small bundle, for tests that need no service."""

from collections.abc import Mapping

from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Heatmaps, Inspector, Setup
from heatline.edge.inspection.verdict import Thresholds


def setup_of(
    bundle: Bundle,
    engine: Engine,
    inspector: Inspector | None = None,
    *,
    product: str | None = None,
    thresholds: Thresholds | None = None,
    areas: Mapping[str, RegionOfInterest] | None = None,
    acting: bool = True,
    heatmaps: Heatmaps = "never",
) -> Setup:
    """A setup with an engine that is already open."""
    return Setup(
        bundle,
        VerifiedEngine(engine, {}, engine.precision),
        inspector or Inspector(bundle.manifest, engine, thresholds=thresholds),
        product=product,
        areas=areas or {},
        acting=acting,
        heatmaps=heatmaps,
    )
