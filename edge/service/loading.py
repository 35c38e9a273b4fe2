"""Prepares what a line inspects by from its configuration: loads and verifies the bundle and opens its engine."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.bundle.signature import describe_signer, require_trusted, signer_of
from heatline.edge.config import LineConfig
from heatline.edge.drift import DriftSetup, references_of
from heatline.edge.errors import ConfigError
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inspection.inspector import Inspector, Setup, product_references
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.reference.reference import Reference
from heatline.edge.util.process import threads_named
from heatline.edge.util.systemd import cache_folder

logger = logging.getLogger(__name__)

ENGINE_THREADS = "engine"
"""Name of an engine's own threads."""


@dataclass(frozen=True)
class PreparedSetup:
    """A configuration and the setup made from it."""

    config: LineConfig
    """With one product in its place, if the line has products."""
    setup: Setup


def prepare(
    config: LineConfig, active: PreparedSetup | None = None, *, report_step: Callable[[str], None] = lambda _: None
) -> PreparedSetup:
    """Open and verify the bundle, check its signature, compile it, and run its golden tiles on this machine.

    Args:
        config: with one product in its place, if the line has products.
        active: the active setup. Its engine is used again if bundle and engine settings are the same.
        report_step: receives a description of each step once the bundle is verified.
    Raises:
        BundleError, EngineError: the first check that fails.
        ConfigError: a setting does not fit the bundle.
    """
    for camera in config.cameras:
        if camera.triggered == "software" and config.commands.bind is None:
            raise ConfigError(
                f"camera {camera.name} is triggered by software, and there is no address to take triggers on; "
                'set commands.bind, e.g. "tcp://127.0.0.1:5557"'
            )
    bundle = open_bundle(config.bundle)
    # Before any engine reads a graph: a hostile graph could do much damage.
    if config.allow_unsigned:
        signed_by = signer_of(bundle.signed_by, config.trusted_keys)
    else:
        signed_by = require_trusted(bundle.signed_by, config.trusted_keys, bundle.path)
    references = product_references(bundle, [camera.name for camera in config.cameras])
    overlap, tile = config.tiles.overlap_px, bundle.manifest.grid.tile_px
    if overlap is not None and overlap >= tile:
        raise ConfigError(f"tiles.overlap_px is {overlap}, the bundle's tiles are {tile} px; expected less")
    same = active if active is not None and active.setup.bundle.digest == bundle.digest else None
    if same is not None and config.engine == same.config.engine:
        verified = same.setup.verified
    else:
        # Writing a compiled graph stops all threads for a while, so a line that inspects writes none.
        cache = cache_folder() if active is None else None
        with threads_named(ENGINE_THREADS):
            verified = open_verified_engine(
                bundle,
                config.engine.kind,
                config.engine.precision,
                device=config.engine.device,
                threads=config.engine.threads,
                streams=config.engine.streams,
                batch=config.engine.batch,
                cache=cache,
                say=report_step,
            )
    areas = {camera.name: camera.region_of_interest for camera in config.cameras}
    checked = config.thresholds.check_plausibility in (None, True)
    inspector = Inspector(
        bundle.manifest,
        verified.engine,
        thresholds=Thresholds.of(bundle.manifest.calibration, config.thresholds.score, config.thresholds.evidence),
        overlap_px=overlap,
        plausibility=bundle.plausibility() if checked else None,
        plausibility_by_camera=_plausibility_by_camera(bundle, areas) if checked else None,
        references=references,
    )
    if config.thresholds.check_plausibility and inspector.plausibility is None:
        checked_cameras = ", ".join(sorted(inspector.plausibility_by_camera))
        logger.warning(
            "%s does not know what its product looks like, so every frame %sgets a verdict; run heatline calibrate",
            config.bundle,
            f"except those of camera {checked_cameras} " if checked_cameras else "",
        )
    by_camera = {name: inspector.plausibility_by_camera.get(name, inspector.plausibility) for name in areas}
    if unknown := [name for name, known in by_camera.items() if known is not None and not known.knows_areas]:
        logger.warning(
            "%s does not know what areas of the product look like, so a frame of camera %s that was lost or covered in "
            "part may be GOOD; calibrate with more good frames, or export the bundle again",
            config.bundle,
            ", ".join(unknown),
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
        drift=_drift(config, bundle, areas, references),
    )
    return PreparedSetup(config, setup)


def _drift(
    config: LineConfig,
    bundle: Bundle,
    areas: Mapping[str, RegionOfInterest],
    references: Mapping[str, Reference],
) -> DriftSetup:
    """Return what frames are compared with; log if nothing."""
    watched = references_of(bundle, areas, references) if config.drift.watch else {}
    if config.drift.watch and (unwatched := sorted(areas.keys() - watched.keys())):
        logger.info(
            "drift of camera %s is not watched, as %s does not say what to compare with; run heatline calibrate",
            ", ".join(unwatched),
            config.bundle,
        )
    return DriftSetup(watched, config.drift.frames, config.drift.every_s)


def _plausibility_by_camera(bundle: Bundle, areas: Mapping[str, RegionOfInterest]) -> dict[str, Plausibility]:
    """Return the bounds of cameras that were calibrated alone and still have the same region of interest."""
    known = bundle.plausibility_by_camera()
    for camera in known.keys() & areas.keys():
        if known[camera][0] != areas[camera]:
            logger.warning(
                "camera %s has another region of interest than when it was calibrated, so the bounds for all cameras "
                "are used; run heatline cameras calibrate again",
                camera,
            )
    return {camera: plausibility for camera, (area, plausibility) in known.items() if areas.get(camera) == area}


def describe_setup(prepared: PreparedSetup) -> str:
    """Describe what frames are inspected by: product, bundle, engine and signature."""
    setup = prepared.setup
    manifest = setup.bundle.manifest
    of_product = "" if setup.product is None else f"product {setup.product}, "
    return (
        f"{of_product}{manifest.name} {manifest.version} ({setup.bundle.digest[:12]}) by {setup.verified.engine.name} "
        f"in {setup.verified.computes_in}, signed by {describe_signer(setup.signed_by)}"
        f"{'' if setup.acting else ', not acting'}"
    )
