"""From a line's configuration to what its frames are inspected by: everything loaded, verified and verified."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from edge.bundle.plausibility import Plausibility
from edge.bundle.trusted import describe_signer, require_trusted, signer_of
from edge.config import LineConfig
from edge.config.engine import EngineConfig
from edge.config.tuned import EngineInForce
from edge.errors import ConfigError, HeatlineError
from edge.geometry import RegionOfInterest
from edge.inspection.inspector import Inspector
from edge.inspection.setup import EngineUses, Setup
from edge.inspection.verdict import Thresholds
from edge.service.systemd import cache_folder
from edge.util.threads import NamedThread, threads_named

logger = logging.getLogger(__name__)

ENGINE_THREADS = "engine"
"""What an engine's own threads go by."""


@dataclass(frozen=True)
class Prepared:
    """A configuration, of one product where there are products, and the setup that came of it."""

    config: LineConfig
    setup: Setup
    engine: EngineInForce
    asked_for: EngineConfig
    """The engine's settings that were to be used; others are in force where these did not work."""


def prepare(
    config: LineConfig, like: Prepared | None = None, *, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Open and verify the bundle, see who signed it, compile it, and run its golden tiles on this machine.

    Args:
        config: of one product, where there are products.
        like: what is in force; its engine is used on, where bundle and engine are the same.
        say: hears what is done now, once the bundle is verified.
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
    engine = config.engine_for(bundle.digest)
    if engine.not_tuned is not None:
        logger.warning("%s", engine.not_tuned)
    asked_for = engine.settings
    if like is not None and like.setup.bundle.digest == bundle.digest and asked_for == like.asked_for:
        verified, uses, engine = like.setup.verified, like.setup.uses, like.engine
    elif like is not None and like.setup.bundle.digest == bundle.digest and asked_for == like.engine.settings:
        verified, uses = like.setup.verified, like.setup.uses
    else:
        # To write a compiled graph out holds up all threads: a line that inspects cannot have that.
        verified, engine = _open(bundle, engine, config.engine, say, cache_folder() if like is None else None)
        uses = EngineUses(unused=lambda: _retire(verified))
    areas = {camera.name: camera.region_of_interest for camera in config.cameras}
    checked = config.thresholds.check_plausibility in (None, True)
    inspector = Inspector(
        bundle.manifest,
        verified.engine,
        thresholds=_thresholds(config, bundle),
        overlap_px=overlap,
        plausibility=bundle.plausibility() if checked else None,
        plausibility_by_camera=_plausibility_by_camera(bundle, areas) if checked else None,
    )
    if config.thresholds.check_plausibility and inspector.plausibility is None:
        held = ", ".join(sorted(inspector.plausibility_by_camera))
        logger.warning(
            "%s does not know what its product looks like, so every frame %sgets a verdict; calibrate it: heatline "
            "calibrate",
            config.bundle,
            f"but those of camera {held} " if held else "",
        )
    setup = Setup(
        bundle,
        verified,
        inspector,
        signed_by=signed_by,
        product=config.product,
        areas=areas,
        acting=config.acting,
        heatmaps=config.events.heatmaps,
        uses=uses,
    )
    return Prepared(config, setup, engine, asked_for)


def _plausibility_by_camera(bundle: Bundle, areas: Mapping[str, RegionOfInterest]) -> dict[str, Plausibility]:
    """Of the line's cameras that were calibrated by themselves, with the area that they have now."""
    known = bundle.plausibility_by_camera()
    for camera in known.keys() & areas.keys():
        if known[camera][0] != areas[camera]:
            logger.warning(
                "camera %s has another region of interest than when it was calibrated, so that it is held to what the "
                "bundle knows of all cameras; calibrate it again: heatline cameras calibrate",
                camera,
            )
    return {camera: one for camera, (area, one) in known.items() if areas.get(camera) == area}


def _retire(verified: VerifiedEngine) -> None:
    """Close an engine on a thread of its own: its last answers may take long, and no frame waits for them."""
    try:
        NamedThread("retire", verified.engine.close).start()
    except RuntimeError as error:
        logger.error("an engine that nothing uses any more stays open: %s", error)


def _open(
    bundle: Bundle, engine: EngineInForce, own: EngineConfig, say: Callable[[str], None], cache: Path | None
) -> tuple[VerifiedEngine, EngineInForce]:
    """An engine for a bundle. What was tuned must keep no line from starting: without it, the line's own settings are
    used.

    Args:
        own: those.
    """
    try:
        return _verified(bundle, engine.settings, say, cache), engine
    except HeatlineError as error:
        if engine.tuned_by is None:
            raise
        without = EngineInForce(own, not_tuned=f"{engine.tuned_by} is not used: {error}")
        logger.warning("%s", without.not_tuned)
    return _verified(bundle, own, say, cache), without


def _verified(bundle: Bundle, settings: EngineConfig, say: Callable[[str], None], cache: Path | None) -> VerifiedEngine:
    with threads_named(ENGINE_THREADS):
        return open_verified_engine(
            bundle,
            settings.kind,
            settings.precision,
            device=settings.device,
            threads=settings.threads,
            streams=settings.streams,
            batch=settings.batch,
            cache=cache,
            say=say,
        )


def _thresholds(config: LineConfig, bundle: Bundle) -> Thresholds:
    calibration, own = bundle.manifest.calibration, config.thresholds
    return Thresholds(
        score=calibration.score_threshold if own.score is None else own.score,
        evidence=calibration.evidence_threshold if own.evidence is None else own.evidence,
    )


def describe(prepared: Prepared) -> str:
    """What frames are inspected by."""
    setup, engine = prepared.setup, prepared.engine
    manifest = setup.bundle.manifest
    tuned = "" if engine.tuned_by is None else f", tuned by {engine.tuned_by}: {engine.settings}"
    of_product = "" if setup.product is None else f"product {setup.product}, "
    return (
        f"{of_product}{manifest.name} {manifest.version} ({setup.bundle.digest[:12]}) by {setup.verified.engine.name} "
        f"in {setup.verified.computes_in}, signed by {describe_signer(setup.signed_by)}{tuned}"
        f"{'' if setup.acting else ', not acting'}"
    )


def describe_plausibility(before: Prepared, now: Prepared) -> str:
    """What a change does to frames that do not show the product, for the end of a sentence; nothing if that stays."""
    was, is_now = (each.setup.inspector for each in (before, now))
    if (was.plausibility is None) == (is_now.plausibility is None):
        said = ""
    elif is_now.plausibility is not None:
        said = "; frames that do not look like the product get no verdict from now on"
    else:
        known = now.setup.bundle.manifest.calibration.plausible is not None
        why = "thresholds.check_plausibility says so" if known else "the bundle does not know what they look like"
        said = f"; every frame gets a verdict from now on, whatever it looks like, as {why}"
    if own := sorted(is_now.plausibility_by_camera.keys() - was.plausibility_by_camera.keys()):
        said += f"; of camera {', '.join(own)}, frames are held to bounds of their own from now on"
    if lost := sorted(was.plausibility_by_camera.keys() - is_now.plausibility_by_camera.keys()):
        said += f"; of camera {', '.join(lost)}, frames are not held to bounds of their own any more"
    return said
