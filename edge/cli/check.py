"""`heatline check`."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import click

from heatline.edge.bundle.signature import describe_signer
from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.cli.bundle_formatting import describe_differences, describe_plausible, reference_facts
from heatline.edge.cli.output import facts_of, json_option, print_report, print_warnings
from heatline.edge.config import JournalConfig, LineConfig, load_config
from heatline.edge.delivery.auth import Access, fingerprint
from heatline.edge.delivery.journal import check_place
from heatline.edge.delivery.subscriber import next_status
from heatline.edge.describe import describe_bundle
from heatline.edge.errors import CameraError, DeliveryError, Faults, HeatlineError
from heatline.edge.frames import Frame, FrameRule
from heatline.edge.inspection.inspector import LineSetup, Setup
from heatline.edge.monitor.feed import check_socket
from heatline.edge.monitor.pictures import picture_socket
from heatline.edge.monitor.store import evidence_folder
from heatline.edge.service.changeover import PreparedSetup, prepare
from heatline.edge.service.events import bundle_name
from heatline.edge.service.line import bound_addresses, lock_folder, not_served, open_cameras, part_journal
from heatline.edge.target import KeyFiles, endpoint_of
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import require_writable, writing
from heatline.edge.util.process import raise_limits
from heatline.edge.util.systemd import state_folder_of
from heatline.edge.util.text import format_count, utf8_safe

FIRST_FRAME_WITHIN_SECONDS = 10.0
STATUS_WITHIN_SECONDS = 3.0
"""A running line publishes its status about once a second."""


@click.command(epilog="Example: heatline check /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
@json_option
def check(line: Path, as_json: bool) -> None:
    """Verify everything that `heatline run LINE` uses, and print it. Does not start the line.

    Checks the configuration, every product's bundle with its signature and its golden tiles on this machine, every
    camera's first frame, the keys, the addresses, the files of its page, and the folders of journal and pictures. What
    the line uses itself while it runs is not checked then: addresses, page, journal and cameras.
    """
    raise_limits()
    config, faults = load_config(line), Faults()
    state = state_folder_of(line)
    # The report or the error has the same text.
    logging.getLogger("heatline.edge.cameras").setLevel(logging.CRITICAL)
    logging.getLogger("heatline.edge.service.changeover").setLevel(logging.WARNING)
    # In the order of `heatline.edge.service.lifecycle`, so that the first fault is the one that run ends with.
    pictures, prepared, access = None, None, Access()
    with faults.collected():
        if config.evidence is not None:
            pictures = evidence_folder(line, config)
            with writing(pictures, or_else=", or set another evidence.folder"):
                require_writable(pictures)
    with faults.collected():
        if config.part is not None:
            part_journal(config, state)
    with faults.collected():
        prepared = prepare(config.of_product(config.product))
    part = config.part
    others = _check_other_products(config, prepared, faults)
    with faults.collected():
        access = Access.read(config.security.key, config.security.allowed)
    warnings: list[str] = []
    cameras: dict[str, Any] = {}
    settings = config.of_product(config.product).cameras
    if _check_addresses(line, config, faults):
        with faults.collected(), lock_folder(state or config.journal.folder):
            warnings += _check_journal(line, config.journal, state)
        with open_cameras(settings, lambda _: None, all_must_open=True, faults=faults) as opened:
            for name, camera in opened.items():
                with faults.collected():
                    cameras[name] = _check_camera(camera, None if prepared is None else prepared.setup)
    else:
        warnings.append("the line runs, and uses its addresses, page, journal and cameras: these were not checked")
    faults.raise_found()
    assert prepared is not None
    setup, verified = prepared.setup, prepared.verified
    of_active: dict[str, Any] = {}
    if isinstance(setup, Setup):
        warnings += _warn_of_extreme_threshold(config, setup)
        of_active = {
            "engine": setup.verified.engine.name,
            "precision": setup.verified.engine.precision,
            "fell_back": setup.verified.fell_back,
            "golden_tiles_off_by": setup.verified.differences,
            "plausible_by_camera": sorted(setup.inspector.plausibility_by_camera),
            "drift_watched": sorted(setup.drift.cameras),
            "screened_cameras": []
            if setup.inspector.screening is None
            else sorted({each.name for each in settings} - setup.inspector.plausibility_by_camera.keys()),
        }
    report: dict[str, Any] = {
        "line": line.stem,
        "product": config.product,
        **_of_setup(setup),
        **of_active,
        "acting": config.acting,
        "other_products": others,
        "cameras": cameras,
        "events": config.events.bind,
        "commands": config.commands.bind,
        "journal": {
            "address": config.journal.bind,
            "folder": config.journal.folder and str(config.journal.folder),
            "kept": config.journal.retain_mib > 0,
        },
        "evidence": None if config.evidence is None else {"folder": pictures and str(pictures)},
        "page": None if config.web is None else config.web.listen,
        "part": part and {"views": list(part.views), "within_ms": part.within_ms},
        "warnings": warnings,
        "line_key": None if access.key is None else fingerprint(access.key.public),
    }
    journal, evidence = config.journal, config.evidence
    goods = f" and 1 of {evidence.good_every} GOOD frames" if evidence and evidence.good_every else ""
    facts = facts_of(
        report,
        **dict.fromkeys(("compared_with", "golden_tiles_off_by", "warnings", "cameras", "other_products")),
        **_words_of(setup, report),
        bundle=describe_bundle(bundle_name(setup)),
        journal=f"in {journal.folder or state}" + (f", served at {journal.bind}" if journal.bind else ""),
        part=part and f"{len(part.views)} pictures, of {', '.join(part.views)}, within {part.within_ms:g} ms",
        evidence=evidence and f"DEFECT, NO_VERDICT{goods} are stored in {pictures}",
    )
    if isinstance(setup, Setup):
        facts["golden tiles"] = f"off by {describe_differences(setup.verified.differences)} of the scale"
        facts |= reference_facts(setup.bundle.manifest)
    facts |= {
        **{f"product {name}": _describe_product(other) for name, other in others.items()},
        **{f"camera {name}": _describe_camera(camera) for name, camera in cameras.items()},
    }
    print_warnings(warnings)
    how = f"in {verified.computes_in}" if verified else "to collect pictures: no frame gets a verdict"
    print_report(report, as_json, f"{line} can be run {how}", facts)


def _words_of(setup: LineSetup, report: dict[str, Any]) -> dict[str, object]:
    """Return what a product is inspected by, for people."""
    if not isinstance(setup, Setup):
        return {}
    plausible = setup.bundle.manifest.calibration.plausible
    unchecked = setup.inspector.plausibility is None and plausible is not None
    return {
        "signed_by": describe_signer(setup.signed_by),
        "score_threshold": f"{setup.inspector.thresholds.score:.2f} logits",
        "evidence_threshold": f"{setup.inspector.thresholds.evidence:.2f} logits",
        "plausible": "not checked, as thresholds.check_plausibility is false"
        if unchecked
        else describe_plausible(plausible),
        "plausible_by_camera": ", ".join(report["plausible_by_camera"]) or None,
        "drift_watched": ", ".join(report["drift_watched"]) or "of no camera",
        "screened_cameras": ", ".join(report["screened_cameras"]) or "none: every tile runs in full",
    }


def _of_setup(setup: LineSetup) -> dict[str, Any]:
    """Return what a product is inspected by."""
    if not isinstance(setup, Setup):
        return {"bundle": None}
    inspector = setup.inspector
    return {
        "bundle": bundle_name(setup),
        "signed_by": setup.signed_by,
        "precision": setup.verified.computes_in,
        "score_threshold": inspector.thresholds.score,
        "evidence_threshold": inspector.thresholds.evidence,
        "compared_with": {camera: reference.made_of for camera, reference in inspector.references.items()},
        "plausible": None if inspector.plausibility is None else inspector.plausibility.plausible,
    }


def _check_addresses(line: Path, config: LineConfig, faults: Faults) -> bool:
    """Check that the line can listen on its addresses and serve its page and its pictures; return False if it does so
    now, as it runs.
    """
    found = Faults()
    with bound_addresses(config.addresses, found), found.collected():
        if config.web is not None:
            require_extra("view")
            from heatline.edge.monitor.server import check as check_page

            check_page(config.web)
    taken = any(isinstance(error, DeliveryError) for error in found.found)
    runs = taken and _runs(line)
    with found.collected():
        if not runs and (config.web is not None or config.evidence is not None):
            check_socket(picture_socket(line))
    faults.found += [error for error in found.found if not (runs and isinstance(error, DeliveryError))]
    return not runs


def _runs(line: Path) -> bool:
    """Return whether a status of this line comes."""
    with contextlib.suppress(HeatlineError):
        address, keys = endpoint_of(str(line), "events", KeyFiles())
        status = next_status(address, STATUS_WITHIN_SECONDS, keys)
        return status is not None and status.line == utf8_safe(line.stem) and status.state != "STOPPED"
    return False


def _check_journal(line: Path, config: JournalConfig, state: Path | None) -> list[str]:
    """Check the journal's folder and return warnings about it."""
    folder = config.folder_in(state)
    if folder is None:
        return [] if config.bind is None else [not_served(config.bind)]
    if folder != state or folder.exists():  # systemd makes the state folder for the service's user
        check_place(folder, utf8_safe(line.stem))
    return []


def _warn_of_extreme_threshold(config: LineConfig, setup: Setup) -> list[str]:
    """Warn if the line's score threshold is above or below the scores of all golden tiles, good and defective."""
    score = config.of_product(config.product).thresholds.score
    if score is None:
        return []
    logits = setup.bundle.golden().logit
    lowest, highest = float(logits.min()), float(logits.max())
    if lowest < score <= highest:
        return []
    verdict = "GOOD, so that defects may pass" if score > highest else "DEFECT"
    return [
        f"thresholds.score is {score:g}, but the golden tiles score {lowest:.2f} to {highest:.2f}: all of them would "
        f"be {verdict}; the bundle's own threshold is {setup.bundle.manifest.calibration.score_threshold:.2f}"
    ]


def _check_other_products(config: LineConfig, first: PreparedSetup | None, faults: Faults) -> dict[str, Any]:
    """Verify the products that are not active at first, and return what each is inspected by."""
    found = {}
    for name in [product.name for product in config.products if product.name != config.product]:
        try:
            setup = prepare(config.of_product(name), active=first).setup
        except HeatlineError as error:
            faults.found.append(type(error)(f"product {name}: {error}"))
            continue
        found[name] = _of_setup(setup)
        if isinstance(setup, Setup) and (first is None or setup.verified is not first.verified):
            setup.verified.engine.close()
    return found


def _describe_product(other: dict[str, Any]) -> str:
    if other["bundle"] is None:
        return describe_bundle(None)
    return (
        f"{describe_bundle(other['bundle'])} in {other['precision']}, "
        f"score threshold {other['score_threshold']:.2f}, evidence threshold {other['evidence_threshold']:.2f}"
        + "".join(f", compared with {made_of}" for made_of in other["compared_with"].values())
    )


def _check_camera(camera: SupervisedCamera, setup: LineSetup | None) -> dict[str, Any]:
    """Check a camera's first frame, and return the facts about both. Without a setup, the frame is not inspected."""
    settings = camera.settings
    assert camera.opened is not None
    facts: dict[str, Any] = {"found": camera.opened.found, "trigger": settings.triggered, "mm": None}
    if settings.scale is not None:
        limits = [each.ignore_below_mm or 0.0 for each in (settings, *settings.zones)]
        facts["mm"] = {"error": 2 * settings.scale.error_mm, "ignore_below": limits[0], "in_zones": limits[1:]}
    if settings.triggered != "free":
        return facts  # it sends no frame until it is triggered, and a check must not trigger it
    frame = camera.grab(FIRST_FRAME_WITHIN_SECONDS)
    if frame is None:
        raise CameraError(f"camera {camera.name}: no frame came within {FIRST_FRAME_WITHIN_SECONDS:g} s")
    if isinstance(frame, Frame):
        frame = FrameRule(settings.size, settings.pixel_format).check(frame)
    if not isinstance(frame, Frame):
        raise CameraError(f"camera {camera.name}: its first frame cannot be inspected: {frame.detail}")
    height, width = frame.image.shape[:2]
    facts |= {"width": width, "height": height, "pixel_format": frame.camera_format}
    if not isinstance(setup, Setup):
        return facts
    area, inspector = settings.region_of_interest, setup.inspector
    judged = setup.finish(inspector.start(frame, area))
    misaligned = judged.misaligned
    return facts | {
        "tiles": len(inspector.stitcher((height, width), area).grid),
        "implausible": None if judged.reject_reason == misaligned else judged.reject_reason,
        "misaligned": misaligned,
    }


def _describe_camera(camera: dict[str, Any]) -> str:
    mm = ""
    if camera["mm"] is not None:
        mm = "; lengths to {error:.2g} mm, tolerated below {ignore_below:g} mm".format(**camera["mm"])
        mm += "".join(f", in zone {n} below {limit:g}" for n, limit in enumerate(camera["mm"]["in_zones"], 1))
    if "width" not in camera:
        return "{found}; waits for its {trigger} trigger".format(**camera) + mm
    frame = "{found}; first frame {width}x{height} px {pixel_format}".format(**camera) + mm
    if "tiles" not in camera:
        return frame
    described = f"{frame}, {format_count(camera['tiles'], 'tile')}"
    refused = camera["implausible"] or camera["misaligned"]
    return f"{described}; IT WOULD GET NO VERDICT: {refused}" if refused else described
