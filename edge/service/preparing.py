"""From a line's configuration to what its frames are inspected by: everything loaded, verified and proven."""

from dataclasses import dataclass

from edge.bundle import Bundle, open_bundle, open_proven_engine
from edge.bundle.trusted import require_trusted, signer_of
from edge.cameras.looking import area_of
from edge.config import LineConfig
from edge.errors import ConfigError
from edge.inspection.inspector import Inspector
from edge.inspection.setup import Setup
from edge.inspection.verdict import Thresholds


@dataclass(frozen=True)
class Prepared:
    """A configuration, of one product where there are products, and the setup that came of it."""

    config: LineConfig
    setup: Setup


def prepare(config: LineConfig, like: Prepared | None = None) -> Prepared:
    """Open and verify the bundle, see who signed it, compile it, and run its golden tiles on this machine.

    Args:
        config: of one product, where there are products.
        like: what is in force; its engine is used on, where bundle and engine are the same.
    Raises:
        BundleError, EngineError: the first thing that is not as it must be.
        ConfigError: an override that does not fit the bundle.
    """
    for camera in config.cameras:
        if camera.triggered == "software" and config.commands.bind is None:
            raise ConfigError(
                f"camera {camera.name} is triggered by software, and there is no address to take triggers on; "
                'set commands.bind, e.g. "tcp://127.0.0.1:5557"'
            )
    bundle = open_bundle(config.bundle)
    # Before any engine reads a graph: who may make graphs may make much happen.
    signed_by = (signer_of if config.allow_unsigned else require_trusted)(bundle, config.trusted_keys)
    overlap, tile = config.tiles.overlap_px, bundle.manifest.grid.tile_px
    if overlap is not None and overlap >= tile:
        raise ConfigError(f"tiles.overlap_px is {overlap}, the bundle's tiles are {tile} px; expected less")
    if like is not None and (like.setup.bundle.digest, like.config.engine) == (bundle.digest, config.engine):
        proven = like.setup.proven
    else:
        proven = open_proven_engine(
            bundle,
            config.engine.kind,
            config.engine.precision,
            threads=config.engine.threads,
            streams=config.engine.streams,
            batch=config.engine.batch,
        )
    inspector = Inspector(bundle.manifest, proven.engine, thresholds=_thresholds(config, bundle), overlap_px=overlap)
    setup = Setup(
        bundle,
        proven,
        inspector,
        signed_by=signed_by,
        product=config.product,
        areas={camera.name: area_of(camera) for camera in config.cameras},
        acting=config.acting,
        heatmaps=config.events.heatmaps,
    )
    return Prepared(config, setup)


def _thresholds(config: LineConfig, bundle: Bundle) -> Thresholds:
    calibration, own = bundle.manifest.calibration, config.thresholds
    return Thresholds(
        score=calibration.score_threshold if own.score is None else own.score,
        evidence=calibration.evidence_threshold if own.evidence is None else own.evidence,
    )
