"""`heatline check`."""

from pathlib import Path
from typing import Any

import click

from edge.bundle.trusted import signer_in_words
from edge.cameras.base import FrameSource
from edge.cli.output import json_option, print_facts, print_json
from edge.config import load_config
from edge.errors import CameraError
from edge.frames import Frame
from edge.inspection.frame_rule import FrameRule
from edge.inspection.inspector import Inspector
from edge.service.line import check_address, open_sources, prepare_line

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
    prepared = prepare_line(config)
    with open_sources(config.cameras) as sources:
        cameras = {
            camera.name: _camera(*sources[camera.name], FrameRule(camera.size, camera.pixel_format), prepared.inspector)
            for camera in config.cameras
        }
    check_address(config.events.bind)
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
    }
    if as_json:
        print_json(report)
        return
    shown = {name: value for name, value in report.items() if name != "cameras"}
    shown["bundle"] = f"{manifest.name} {manifest.version} ({prepared.bundle.digest[:12]})"
    shown["signed_by"] = signer_in_words(prepared.signed_by)
    shown["golden_tiles_off_by"] = ", ".join(
        f"{name} {difference:.1e}" for name, difference in proven.differences.items()
    )
    shown |= {
        f"camera {name}": "{found}; first frame {width}x{height} px {pixel_format}, {tiles} tiles".format(**camera)
        for name, camera in cameras.items()
    }
    if proven.fell_back is None:
        del shown["fell_back"]
    print_facts(f"{line} can be run in {proven.computes_in}", shown)


def _camera(source: FrameSource, found: str, rule: FrameRule, inspector: Inspector) -> dict[str, Any]:
    frame = source.grab(FIRST_FRAME_WITHIN_SECONDS)
    if isinstance(frame, Frame):
        frame = rule.check(frame)
    if not isinstance(frame, Frame):
        why = "none came" if frame is None else frame.detail
        raise CameraError(f"camera {source.name}: its first frame cannot be inspected: {why}")
    height, width = frame.image.shape[:2]
    tiles = len(inspector.stitcher((height, width)).grid)
    return {"found": found, "width": width, "height": height, "pixel_format": frame.pixel_format, "tiles": tiles}
