"""`heatline evidence`: lists, shows, marks and exports the pictures that a line stored."""

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cli.evidence_export import export
from heatline.edge.cli.evidence_mark import mark
from heatline.edge.cli.evidence_report import report
from heatline.edge.cli.group import CommandGroup
from heatline.edge.cli.options import VERDICT, day_option
from heatline.edge.cli.output import json_option, print_facts, print_json, print_table
from heatline.edge.describe import describe_bundle
from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import outline_foreign, outline_regions, png, tint
from heatline.edge.images import read_image, read_rgb
from heatline.edge.monitor.marks import Review, ReviewRow
from heatline.edge.monitor.store import JUDGED, EvidenceEntry, EvidenceStore, evidence_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.wire.events import Verdict

HEADINGS = "time (UTC)", "verdict", "camera", "part", "score", "reason", "review", "id"
SAID = {"right": "right", "false_alarm": "false alarm", "missed": "missed a defect"}
"""What a reviewer says of a verdict by a mark of this kind."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of an evidence store."""

    folder: str
    entries: list[EvidenceEntry]
    reviews: list[ReviewRow | None]
    """What reviewers say of each; null: nobody has reviewed it."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, and the files of its pictures; null: there is none."""

    frame: str | None
    heatmap: str | None
    entry: EvidenceEntry
    review: ReviewRow | None
    """Null: nobody has reviewed it."""


@click.group(cls=CommandGroup, epilog="Example: heatline evidence list line1 --verdict DEFECT")
def evidence() -> None:
    """List, show, mark and export the pictures that a line stored with its verdicts.

    Run this on the line PC. Only `mark` needs a line that runs.
    """


for command in (mark, report, export):
    evidence.add_command(command)


@evidence.command("list", epilog="Example: heatline evidence list line1 --day 2026-11-28 --verdict DEFECT")
@click.argument("line")
@day_option("--day", "Only pictures of this UTC day, as 2026-11-28.")
@click.option("--verdict", type=VERDICT, help="Only pictures with this verdict.")
@click.option("--camera", help="Only pictures of this camera.")
@click.option("--unreviewed", is_flag=True, help="Only pictures with GOOD or DEFECT that nobody has reviewed.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Pictures to list.")
@json_option
def list_(
    line: str,
    day: str | None,
    verdict: Verdict | None,
    camera: str | None,
    unreviewed: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List the pictures that LINE stored, the newest first.

    LINE is a line's name, its TOML file, or the folder of the pictures. Times and days are UTC.
    """
    store = EvidenceStore(evidence_of(line))
    verdicts = [each for each in JUDGED if verdict in (None, each)] if unreviewed else verdict
    reviewed = False if unreviewed else None
    found = list(store.entries(limit=limit, day=day, verdict=verdicts, camera=camera, is_reviewed=reviewed))
    reviews = [store.review(entry.picture, entry.day) for entry in found]
    if as_json:
        rows = [None if review is None else ReviewRow.of(review) for review in reviews]
        print_json(Listed(folder=str(store.folder), entries=found, reviews=rows))
        return
    if not found:
        click.echo(f"{store.folder} holds no such picture")
        return
    print_table(HEADINGS, map(_cells, found, reviews), numbers={"score"})


@evidence.command(epilog="Example: heatline evidence show line1 4f3a09c1-top-1281 --out defect.png")
@click.argument("line")
@click.argument("picture", metavar="ID")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="PNG to write: the frame, its heatmap and regions."
)
@json_option
def show(line: str, picture: str, out: Path | None, as_json: bool) -> None:
    """Print what LINE stored with the picture ID, and where.

    LINE is as for `list`. ID is the field `picture` of an event, or the last column of `list`. Without --out, the
    command writes nothing.
    """
    store = EvidenceStore(evidence_of(line))
    entry = store.require(picture)
    review = store.review(picture, entry.day)
    frame = store.frame_path(picture, entry.day)
    heatmap = store.heatmap_path(picture, entry.day)
    if out is not None:
        if out.suffix.lower() != ".png":
            raise InputError(f"--out is {out}, and the picture is a PNG; name a file that ends in .png")
        shown = draw(entry, frame, heatmap)
        with writing(out), replacing(out, unique=True) as new:
            new.write_bytes(png(shown))
    if as_json:
        row = None if review is None else ReviewRow.of(review)
        print_json(Shown(frame=_name(frame), heatmap=_name(heatmap), entry=entry, review=row))
    else:
        print_facts(f"{entry.event.verdict}, picture {picture}", _facts(entry, review, frame, heatmap))
    if out is not None and not as_json:
        without = "" if heatmap else ": the frame, as it has no heatmap"
        click.echo(f"{out} is written{without}")


def draw(entry: EvidenceEntry, frame: Path | None, heatmap: Path | None) -> NDArray[np.uint8]:
    """Return the frame with its heatmap and regions, as far as it has them: RGB uint8 [H, W, 3].

    Raises:
        InputError: a picture cannot be read.
    """
    if frame is None:
        raise InputError(f"the frame of picture {entry.picture} is gone; it was deleted by hand, or a moment ago")
    rgb = read_rgb(frame)
    if heatmap is not None and entry.heatmap is not None:
        grey, _ = read_image(heatmap)
        if grey.shape != entry.heatmap.hw or grey.dtype != np.uint8:
            raise InputError(f"{heatmap} is not the heatmap that its entry describes; the frame is {frame}")
        rgb = tint(rgb, grey.astype(np.uint8), entry.heatmap.cell_px)
    regions = entry.event.regions
    return outline_foreign(outline_regions(rgb, regions), [area.box_xyxy for area in entry.event.foreign_areas])


def _cells(entry: EvidenceEntry, review: Review | None) -> list[str]:
    event = entry.event
    score = "" if event.frame_score is None else f"{event.frame_score:.2f}"
    return [
        _utc(event.times.captured_at_ns),
        event.verdict,
        event.camera,
        event.part_id or "",
        score,
        event.reason or "",
        "" if review is None else _describe_kind(review),
        entry.picture,
    ]


def _facts(entry: EvidenceEntry, review: Review | None, frame: Path | None, heatmap: Path | None) -> dict[str, object]:
    event = entry.event
    facts: dict[str, object | None] = {
        "line, camera": f"{entry.line}, {event.camera}",
        "captured at (UTC)": _utc(event.times.captured_at_ns),
        "stored at (UTC)": _utc(entry.stored_at_ns),
        "part": event.part_id,
        "frame": f"{event.frame_number}" + ("" if event.source is None else f", {event.source}"),
        "reason": None if event.reason is None else f"{event.reason}: {event.detail}",
        "score": None
        if event.frame_score is None
        else f"{event.frame_score:.2f}, threshold {event.score_threshold:.2f}",
    }
    if review is not None:
        says = "; ".join(f"{SAID[mark.kind]}, says {mark.by}" for mark in review.marks)
        facts["review"] = says if review.kind is not None else f"contradictory: {says}"
        if review.missed_xy:
            facts["missed at"] = ", ".join(f"({x}, {y})" for x, y in review.missed_xy)
    for number, region in enumerate(event.regions, 1):
        x, y = region.peak_xy
        facts[f"region {number}"] = f"peak {region.score:.2f} at ({x}, {y}), {region.area_px} px"
    for number, area in enumerate(event.foreign_areas, 1):
        facts[f"foreign area {number}"] = area.why
    if (pose := event.pose) is not None:
        facts["pose"] = (
            f"{pose.x_px:.1f} px right, {pose.y_px:.1f} px down, {pose.degrees:.2f} degrees clockwise of the "
            f"reference; confidence {pose.confidence:.2f}, error {pose.error_px:.1f} px"
        )
    if entry.tiles is not None and entry.tiles.logits:
        highest = int(np.argmax(entry.tiles.logits))
        y, x = entry.tiles.origins_yx[highest]
        facts["highest evidence"] = f"{entry.tiles.logits[highest]:.2f} at ({x}, {y}), {entry.tiles.tile_px} px wide"
    facts |= {
        "product": event.product,
        "bundle": f"{describe_bundle(event.bundle)}, {event.precision}",
        "boot": event.boot_id,
        "picture": frame or "deleted",
        "heatmap": heatmap,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _describe_kind(review: Review) -> str:
    """Return what reviewers say of a verdict."""
    return "contradictory" if review.kind is None else review.kind.replace("_", " ")


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _utc(at_ns: int) -> str:
    try:
        return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "?"
