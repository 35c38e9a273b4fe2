"""`heatline check`."""

import logging
from pathlib import Path
from typing import Any

import click

from edge.bundle.trusted import signer_in_words
from edge.cli.output import json_option, print_facts, print_json
from edge.config import load_config
from edge.errors import CameraError
from edge.frames import Frame
from edge.geometry.area_of_interest import AreaOfInterest
from edge.inspection.frame_rule import FrameRule
from edge.inspection.inspector import Inspector
from edge.service.line import OpenCamera, check_address, open_cameras, prepare_line

FIRST_FRAME_WITHIN_SECONDS = 10.0


@click.command(epilog="Example: heatline check /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
@json_option
def check(line: Path, as_json: bool) -> None:
    """Verify all that `heatline run LINE` will use, and print it. Starts nothing.

    The configuration, the bundle, who signed it, its golden tiles on this machine, every camera's first frame, and the
    address of the events.
    """
    config = load_config(line)
    logging.getLogger("edge.cameras").setLevel(logging.CRITICAL)  # the report says it, or the error
    prepared = prepare_line(config)
    check_address("events.bind", config.events.bind)
    if config.commands.bind is not None:
        check_address("commands.bind", config.commands.bind)
    with open_cameras(config.cameras, lambda _: None, all_must_open=True) as opened:
        cameras = {name: _camera(each, prepared.inspector) for name, each in opened.items()}
    manifest, proven = prepared.bundle.manifest, prepared.proven
    report: dict[str, Any] = {
        "line": line.stem,
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": prepared.bundle.digest},
        "signed_by": prepared.signed_by,
        "model": manifest.model.name,
        "engine": proven.engine.name,
        "precision": proven.engine.precision,
        "fell_back": proven.fell_back,
        "golden_tiles_off_by": proven.differences,
        "score_threshold": prepared.inspector.thresholds.score,
        "evidence_threshold": prepared.inspector.thresholds.evidence,
        "acting": config.acting,
        "cameras": cameras,
        "events": config.events.bind,
        "commands": config.commands.bind,
    }
    if as_json:
        print_json(report)
        return
    shown = {name: value for name, value in report.items() if name != "cameras"}
    shown["bundle"] = f"{manifest.name} {manifest.version} ({prepared.bundle.digest[:12]})"
    if config.commands.bind is None:
        del shown["commands"]
    shown["signed_by"] = signer_in_words(prepared.signed_by)
    shown["golden_tiles_off_by"] = ", ".join(
        f"{name} {difference:.1e}" for name, difference in proven.differences.items()
    )
    shown |= {f"camera {name}": _in_words(camera) for name, camera in cameras.items()}
    if proven.fell_back is None:
        del shown["fell_back"]
    print_facts(f"{line} can be run in {proven.computes_in}", shown)


def _camera(each: OpenCamera, inspector: Inspector) -> dict[str, Any]:
    camera, settings = each.camera, each.camera.settings
    assert each.opened is not None
    about: dict[str, Any] = {"found": each.opened.found, "trigger": settings.triggered}
    if settings.triggered != "free":
        return about  # it shows nothing until it is triggered, and that is not ours to do
    frame = camera.grab(FIRST_FRAME_WITHIN_SECONDS)
    if isinstance(frame, Frame):
        checked = FrameRule(settings.size, settings.pixel_format).check(frame)
        frame.release()
        frame = checked
    if not isinstance(frame, Frame):
        why = "none came" if frame is None else frame.detail
        raise CameraError(f"camera {camera.name}: its first frame cannot be inspected: {why}")
    height, width = frame.image.shape[:2]
    area = AreaOfInterest.of(settings.look_at, settings.look_away)
    tiles = len(inspector.stitcher((height, width), area).grid)
    return about | {"width": width, "height": height, "pixel_format": frame.camera_format, "tiles": tiles}


def _in_words(camera: dict[str, Any]) -> str:
    if "width" not in camera:
        return "{found}; waits for its {trigger} trigger".format(**camera)
    return "{found}; first frame {width}x{height} px {pixel_format}, {tiles} tiles".format(**camera)
