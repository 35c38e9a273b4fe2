"""`heatline check`."""

import logging
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.bundle.manifest import Plausible
from edge.bundle.trusted import signer_in_words
from edge.cameras.looking import area_of
from edge.cli.calibration_text import describe_plausible
from edge.cli.output import json_option, print_facts, print_json
from edge.config import JournalConfig, LineConfig, load_config
from edge.delivery.security.access import Access
from edge.delivery.security.curve import fingerprint
from edge.errors import CameraError, HeatlineError
from edge.frames import Frame
from edge.inspection.frame_rule import FrameRule
from edge.inspection.setup import Setup
from edge.service.line import OpenCamera, check_address, open_cameras
from edge.service.loading import Prepared, prepare
from edge.text import format_count

FIRST_FRAME_WITHIN_SECONDS = 10.0


@click.command(epilog="Example: heatline check /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
@json_option
def check(line: Path, as_json: bool) -> None:
    """Verify all that `heatline run LINE` will use, and print it. Starts nothing.

    The configuration, every product's bundle, who signed it, its golden tiles on this machine, every camera's first
    frame, the keys, and the addresses.
    """
    config = load_config(line)
    logging.getLogger("edge.cameras").setLevel(logging.CRITICAL)  # the report says it, or the error
    prepared = prepare(config.of_product(config.product))
    others = _others(config, prepared)
    setup = prepared.setup
    access = Access.read(config.security.key, config.security.allowed)
    for name, address in _addresses(config).items():
        check_address(name, address)
    with open_cameras(prepared.config.cameras, lambda _: None, all_must_open=True) as opened:
        cameras = {name: _camera(each, setup) for name, each in opened.items()}
    manifest, proven = setup.bundle.manifest, setup.proven
    report: dict[str, Any] = {
        "line": line.stem,
        "product": config.product,
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": setup.bundle.digest},
        "signed_by": setup.signed_by,
        "model": manifest.model.name,
        "engine": proven.engine.name,
        "engine_settings": msgspec.structs.asdict(prepared.engine.settings),
        "tuned_by": prepared.engine.tuned_by,
        "not_tuned": prepared.engine.not_tuned,
        "precision": proven.engine.precision,
        "fell_back": proven.fell_back,
        "golden_tiles_off_by": proven.differences,
        "score_threshold": setup.inspector.thresholds.score,
        "evidence_threshold": setup.inspector.thresholds.evidence,
        "plausible": _plausible(setup),
        "plausible_by_camera": sorted(setup.inspector.plausibility_by_camera),
        "acting": config.acting,
        "other_products": others,
        "cameras": cameras,
        "events": config.events.bind,
        "commands": config.commands.bind,
        "journal": {
            "address": config.journal.bind,
            "folder": None if config.journal.folder is None else str(config.journal.folder),
            "kept": config.journal.keep_mib > 0,
        },
        "line_key": None if access.key is None else fingerprint(access.key.public),
    }
    if as_json:
        print_json(report)
        return
    shown = {name: value for name, value in report.items() if name not in ("cameras", "other_products")}
    shown["bundle"] = f"{manifest.name} {manifest.version} ({setup.bundle.digest[:12]})"
    shown["engine_settings"] = f"{prepared.engine.settings}, as {prepared.engine.tuned_by or line} says"
    del shown["tuned_by"]
    shown["plausible"] = _describe_plausible(setup)
    for name in ("commands", "product", "line_key", "not_tuned"):
        if shown[name] is None:
            del shown[name]
    shown["journal"] = _journal_in_words(config.journal)
    shown["signed_by"] = signer_in_words(setup.signed_by)
    shown["golden_tiles_off_by"] = ", ".join(
        f"{name} {difference:.1e}" for name, difference in proven.differences.items()
    )
    shown |= {f"product {name}": _product_in_words(other) for name, other in others.items()}
    shown |= {f"camera {name}": _in_words(camera) for name, camera in cameras.items()}
    if proven.fell_back is None:
        del shown["fell_back"]
    print_facts(f"{line} can be run in {proven.computes_in}", shown)


def _addresses(config: LineConfig) -> dict[str, str]:
    """All that the line will bind, by their keys."""
    bound = {
        "events.bind": config.events.bind,
        "commands.bind": config.commands.bind,
        "journal.bind": config.journal.bind,
    }
    return {name: address for name, address in bound.items() if address is not None}


def _journal_in_words(config: JournalConfig) -> str:
    if not config.keep_mib:
        return "nothing is kept"
    kept = "in the service's state folder" if config.folder is None else f"in {config.folder}"
    return kept if config.bind is None else f"{kept}, had at {config.bind}"


def _others(config: LineConfig, first: Prepared) -> dict[str, Any]:
    """What the products are inspected by that are not in force at first, all proven as well."""
    told = {}
    for name in [product.name for product in config.products if product.name != config.product]:
        try:
            setup = prepare(config.of_product(name), like=first).setup
        except HeatlineError as error:
            raise type(error)(f"product {name}: {error}") from error
        manifest, thresholds = setup.bundle.manifest, setup.inspector.thresholds
        told[name] = {
            "bundle": {"name": manifest.name, "version": manifest.version, "digest": setup.bundle.digest},
            "signed_by": setup.signed_by,
            "precision": setup.proven.computes_in,
            "score_threshold": thresholds.score,
            "evidence_threshold": thresholds.evidence,
            "plausible": _plausible(setup),
        }
        if setup.proven is not first.setup.proven:
            setup.proven.engine.close()
    return told


def _plausible(setup: Setup) -> Plausible | None:
    """What its frames must look like; None: nothing is checked."""
    return None if setup.inspector.plausibility is None else setup.inspector.plausibility.plausible


def _describe_plausible(setup: Setup) -> str:
    calibration, inspector = setup.bundle.manifest.calibration, setup.inspector
    if inspector.plausibility is None and calibration.plausible is not None:
        return "not checked, as thresholds.check_plausibility says"
    described = describe_plausible(calibration.plausible)
    held = ", ".join(sorted(inspector.plausibility_by_camera))
    return f"{described}; but of camera {held} by bounds of its own" if held else described


def _product_in_words(told: dict[str, Any]) -> str:
    bundle = told["bundle"]
    return (
        f"{bundle['name']} {bundle['version']} ({bundle['digest'][:12]}) in {told['precision']}, "
        f"score_threshold {told['score_threshold']}, evidence_threshold {told['evidence_threshold']}"
    )


def _camera(each: OpenCamera, setup: Setup) -> dict[str, Any]:
    """What a camera is and shows; its first frame is held to what frames of the product in force look like."""
    camera, settings, inspector = each.camera, each.camera.settings, setup.inspector
    assert each.opened is not None
    about: dict[str, Any] = {"found": each.opened.found, "trigger": settings.triggered}
    if settings.triggered != "free":
        return about  # it shows nothing until it is triggered, and that is not ours to do
    frame = camera.grab(FIRST_FRAME_WITHIN_SECONDS)
    checked = FrameRule(settings.size, settings.pixel_format).check(frame) if isinstance(frame, Frame) else frame
    if not isinstance(checked, Frame):
        if isinstance(frame, Frame):
            frame.release()
        why = "none came" if checked is None else checked.detail
        raise CameraError(f"camera {camera.name}: its first frame cannot be inspected: {why}")
    height, width = checked.image.shape[:2]
    area = area_of(settings)
    tiles = len(inspector.stitcher((height, width), area).grid)
    implausible = None
    try:
        if inspector.plausibility is not None or camera.name in inspector.plausibility_by_camera:
            implausible = inspector.finish(inspector.start(checked, area)).implausible
    finally:
        checked.release()
    return about | {
        "width": width,
        "height": height,
        "pixel_format": checked.camera_format,
        "tiles": tiles,
        "implausible": implausible,
    }


def _in_words(camera: dict[str, Any]) -> str:
    if "width" not in camera:
        return "{found}; waits for its {trigger} trigger".format(**camera)
    frame = "{found}; first frame {width}x{height} px {pixel_format}".format(**camera)
    words = f"{frame}, {format_count(camera['tiles'], 'tile')}"
    return words if camera["implausible"] is None else f"{words}; IT WOULD GET NO VERDICT: {camera['implausible']}"
