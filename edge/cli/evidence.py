"""`heatline evidence`: lists, shows, marks, counts and exports the pictures that a line stored."""

import re
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from heatline.edge.calibration.statistics import share_of
from heatline.edge.cli.output import (
    VERDICT,
    CommandGroup,
    Rows,
    json_option,
    make_empty,
    print_report,
    print_warnings,
    progress_bar,
    share_text,
)
from heatline.edge.describe import describe_bundle, describe_event, utc
from heatline.edge.errors import ConfigError, InputError
from heatline.edge.monitor.marks import MANIFEST, ManifestRow, mark_of
from heatline.edge.monitor.pictures import add_mark, picture_socket
from heatline.edge.monitor.store import JUDGED, EvidenceEntry, EvidenceStore, evidence_of
from heatline.edge.target import file_of, is_line, journal_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import encode_json, format_count
from heatline.edge.wire.events import MarkKind, Stroke, Verdict

HEADINGS = "time (UTC)", "verdict", "camera", "part", "score", "reason", "review", "id"
RATES = {
    "day (UTC)": "day",
    "camera": "camera",
    "DEFECT": "stored_defects",
    "DEFECT reviewed": "reviewed_defects",
    "false alarms": "false_alarm",
    "GOOD": "stored_goods",
    "GOOD reviewed": "reviewed_goods",
    "missed": "missed",
    "contradictory": "contradictory",
}
"""Columns of the report, and the fields that they show."""
SAID = {"right": "right", "false_alarm": "false alarm", "missed": "missed a defect"}
"""What a reviewer says of a verdict by a mark of this kind."""
KINDS: dict[str, MarkKind] = {
    "right": "right",
    "false-alarm": "false_alarm",
    "missed": "missed",
    "withdraw": "withdrawn",
}
FOLDERS: dict[Verdict, str] = {"GOOD": "good", "DEFECT": "defective", "NO_VERDICT": "no_verdict"}
"""Subfolder of each verdict; `heatline train` reads the first two."""
MISSING, CONTRADICTORY = "", "contradictory"
"""What is counted instead of a subfolder."""
SINCE = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=lambda _context, _option, at: at and f"{at:%Y-%m-%d}",
    help="Only pictures of this UTC day and later ones, as 2026-11-28.",
)


@click.group(cls=CommandGroup, epilog="Example: heatline evidence list line1 --verdict DEFECT")
def evidence() -> None:
    """List, show, mark and export the pictures that a line stored with its verdicts.

    Run this on the line PC. Only `mark` needs a line that runs.
    """


@evidence.command("list", epilog="Example: heatline evidence list line1 --since 2026-11-28 --verdict DEFECT")
@click.argument("line")
@SINCE
@click.option("--verdict", type=VERDICT, help="Only pictures with this verdict.")
@click.option("--camera", help="Only pictures of this camera.")
@click.option("--unreviewed", is_flag=True, help="Only pictures with GOOD or DEFECT that nobody has reviewed.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Pictures to list.")
@json_option
def list_(
    line: str,
    since: str | None,
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
    verdicts = [each for each in (JUDGED if unreviewed else FOLDERS) if verdict in (None, each)]
    reviewed = False if unreviewed else None
    found = list(islice(store.entries(since=since, verdicts=verdicts, camera=camera, is_reviewed=reviewed), limit))
    rows = Rows(HEADINGS, list(map(_cells, found)), numbers={"score"})
    report = {"folder": str(store.folder), "entries": found}
    print_report(report, as_json, "" if found else f"{store.folder} holds no such picture", rows=rows)


@evidence.command(epilog="Example: heatline evidence show line1 4f3a09c1-top-1281")
@click.argument("line")
@click.argument("picture", metavar="ID")
@json_option
def show(line: str, picture: str, as_json: bool) -> None:
    """Print what LINE stored with the picture ID, and where.

    LINE is as for `list`. ID is the field `picture` of an event, or the last column of `list`.
    """
    store = EvidenceStore(evidence_of(line))
    entry = store.require(picture)
    frame = store.frame_path(picture, entry.day)
    heatmap = store.heatmap_path(picture, entry.day)
    paths = {"frame": frame and str(frame), "heatmap": heatmap and str(heatmap)}
    facts = _facts(entry) | {"picture": frame or "deleted", "heatmap": heatmap}
    print_report({**paths, "entry": entry}, as_json, f"{entry.event.verdict}, picture {picture}", facts)


def _cells(entry: EvidenceEntry) -> list[str]:
    event, review = entry.event, entry.review
    return [
        _utc(event.times.captured_at_ns),
        event.verdict,
        event.camera,
        event.part_id or "",
        "" if event.frame_score is None else f"{event.frame_score:.2f}",
        event.reason or "",
        "" if review is None else (review.kind or CONTRADICTORY).replace("_", " "),
        entry.picture,
    ]


def _facts(entry: EvidenceEntry) -> dict[str, object]:
    event, review = entry.event, entry.review
    told = describe_event(event)
    facts: dict[str, object] = {
        "line, camera": f"{entry.line}, {event.camera}",
        "captured at (UTC)": _utc(event.times.captured_at_ns),
        "frame": f"{event.frame_number}, {told.subject}",
        "found": told.detail,
        "threshold": None if event.score_threshold is None else f"{event.score_threshold:.2f}",
    }
    if review is not None:
        says = "; ".join(f"{SAID[mark.kind]}, says {mark.by}" for mark in review.marks)
        facts["review"] = says if review.kind is not None else f"contradictory: {says}"
        boxes = [f"box of {width}x{height} px at ({x}, {y})" for x, y, width, height in review.boxes_xywh]
        strokes = [f"stroke of {each.width_px} px from {each.points_xy[0]}" for each in review.strokes]
        facts["missed at"] = ", ".join([*map(str, review.missed_xy), *boxes, *strokes]) or None
    if (pose := event.pose) is not None:
        facts["pose"] = (
            f"{pose.x_px:.1f} px right, {pose.y_px:.1f} px down, {pose.degrees:.2f} degrees clockwise of the "
            f"reference, {100 * (pose.magnification - 1):.2f} % larger; confidence {pose.confidence:.2f}, "
            f"error {pose.error_px:.1f} px"
        )
    return facts | {"product": event.product, "bundle": f"{describe_bundle(event.bundle)}, {event.precision}"}


def _utc(at_ns: int) -> str:
    return utc(at_ns).partition(".")[0].replace("T", " ") or "?"


PLACES = {
    "at_xy": (r"-?\d{1,9},-?\d{1,9}", "a position; expected X,Y in px, as 640,480"),
    "boxes_xywh": (r"(-?\d{1,9},){3}-?\d{1,9}", "a box; expected X,Y,WIDTH,HEIGHT in px, as 600,440,90,60"),
    "strokes": (
        r"-?\d{1,9},-?\d{1,9}(,-?\d{1,9},-?\d{1,9})*:\d{1,9}",
        "a stroke; expected X,Y,X,Y,...:WIDTH in px, as 610,450,660,490:12",
    ),
}
"""Options for places in a frame: what matches, and what is said of others."""


def _places(_context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Return the numbers of each place; of a stroke, the width comes last."""
    pattern, expected = PLACES[str(option.name)]
    for text in texts:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise click.BadParameter(f"{text!r} is not {expected}.")
    return [tuple(map(int, re.split("[,:]", text))) for text in texts]


@evidence.command(epilog="Example: heatline evidence mark line1 4f3a09c1-top-1281 missed --at 640,480 --by Ada")
@click.argument("line")
@click.argument("picture", metavar="ID")
@click.argument("kind", type=click.Choice([*KINDS]))
@click.option("--by", required=True, help="Your name. It is stored and published with the mark.")
@click.option(
    "--at",
    "at_xy",
    multiple=True,
    metavar="X,Y",
    callback=_places,
    help="A point of a missed defect, px of the frame; may be repeated, as --box and --stroke may.",
)
@click.option(
    "--box",
    "boxes_xywh",
    multiple=True,
    metavar="X,Y,W,H",
    callback=_places,
    help="Left, top, width and height of a box around a missed defect.",
)
@click.option(
    "--stroke",
    "strokes",
    multiple=True,
    metavar="X,Y,X,Y,...:WIDTH",
    callback=_places,
    help="Path of a brush over a missed defect, and its width.",
)
@json_option
def mark(line: str, picture: str, kind: str, by: str, as_json: bool, **places: list[Any]) -> None:
    """Say that the verdict of the stored picture ID is right or wrong.

    \b
    right        the verdict is right
    false-alarm  the verdict is DEFECT, and the part is good
    missed       the line did not find a defect, which is --at, in a --box or under a --stroke
    withdraw     take your former mark back

    The running line journals the mark and publishes it as a review event; the verdict stays as it was sent. Your last
    mark of a picture replaces your former ones. LINE is a line's name or its TOML file.
    """
    if not is_line(line):
        raise ConfigError(f"{line} is not a line, and only a running line takes a mark; name the line or its TOML file")
    entry = EvidenceStore(evidence_of(line)).require(picture)
    if kind != "missed" and any(places.values()):
        raise InputError(f"a place came with {kind}; --at, --box and --stroke belong to missed only, so leave them out")
    places["strokes"] = [
        Stroke(tuple(zip(way[::2], way[1::2], strict=True)), width) for *way, width in places["strokes"]
    ]
    made = mark_of(entry.event, KINDS[kind], by, **places)
    if made.kind == "withdrawn" and (entry.review is None or made.by not in entry.review.by):
        raise InputError(
            f"{made.by} has no mark of picture {picture} to withdraw; heatline evidence show {line} {picture} prints "
            "the marks"
        )
    event = add_mark(picture_socket(file_of(line)), journal_of(line), made)
    done = "no longer marked" if made.kind == "withdrawn" else f"marked as {kind}"
    title = f"{event.line}: picture {picture} is {done} by {made.by}, event {event.seq}"
    print_report({"event": event}, as_json, title)


@evidence.command(epilog="Example: heatline evidence report line1 --since 2026-11-21")
@click.argument("line")
@SINCE
@json_option
def report(line: str, since: str | None, as_json: bool) -> None:
    """Report how many of LINE's stored verdicts reviewers found wrong, by day and camera.

    The share of false alarms is that of the reviewed DEFECTs, the share of missed defects that of the reviewed GOODs
    which the line chose to store. Intervals are 95 % (Clopper and Pearson). A share is only as good as the choice of
    what was reviewed. LINE is as for `list`.
    """
    store = EvidenceStore(evidence_of(line))
    counts: dict[tuple[str, str], Counter[str]] = {}
    for entry in store.entries(since=since, verdicts=JUDGED):
        counts.setdefault((entry.day, entry.event.camera), Counter()).update(_counted(entry))
    rows = [_rates(day, camera, counts[day, camera]) for day, camera in sorted(counts)]
    total = _rates("all", "all", sum(counts.values(), Counter()))
    cells = [[share_text(row[field]) for field in RATES.values()] for row in [*rows, total] if rows]
    notes = [
        "false alarms: share of the reviewed DEFECTs. missed: share of the reviewed GOODs. In brackets: 95 % interval. "
        "A share is only as good as the choice of what was reviewed."
    ]
    title = "" if rows else f"{store.folder} holds no such picture"
    found = {"folder": str(store.folder), "since": since, "rows": rows, "total": total}
    print_report(found, as_json, title, rows=Rows(tuple(RATES), cells, numbers=set(RATES)), notes=notes)


def _counted(entry: EvidenceEntry) -> list[str]:
    """Return the names of the counts that an entry with GOOD or DEFECT belongs to."""
    review, is_good = entry.review, entry.event.verdict == "GOOD"
    if is_good and entry.is_chosen:  # people mark such a frame because they see a defect in it: it is no sample
        return []
    kind, wrong = ("goods", "defective") if is_good else ("defects", "good")
    names = [f"stored_{kind}"]
    if review is not None:
        names.append("contradictory" if review.truth is None else f"reviewed_{kind}")
        names += [f"wrong_{kind}"] * (review.truth == wrong)
    return names


def _rates(day: str, camera: str, counts: Counter[str]) -> dict[str, Any]:
    """Return the counts and shares of a day's frames of a camera, or of all."""
    names = "stored_defects", "reviewed_defects", "stored_goods", "reviewed_goods", "contradictory"
    return {
        "day": day,
        "camera": camera,
        **{name: counts[name] for name in names},
        "false_alarm": share_of(counts["wrong_defects"], counts["reviewed_defects"]),
        "missed": share_of(counts["wrong_goods"], counts["reviewed_goods"]),
    }


@evidence.command(epilog="Example: heatline evidence export line1 new-pictures --since 2026-11-21")
@click.argument("line")
@click.argument("out", type=click.Path(path_type=Path))
@SINCE
@click.option(
    "--verdict",
    "verdicts",
    type=VERDICT,
    multiple=True,
    default=("GOOD", "DEFECT"),
    show_default=True,
    help="Only pictures with this verdict; may be repeated.",
)
@click.option("--reviewed", is_flag=True, help="Only reviewed pictures, sorted by what the reviewers say of them.")
@json_option
def export(
    line: str, out: Path, since: str | None, verdicts: tuple[Verdict, ...], reviewed: bool, as_json: bool
) -> None:
    """Copy the frames that LINE stored into the new folder OUT, which `heatline train OUT` reads.

    LINE is as for `list`. Frames with GOOD go to good/, with DEFECT to defective/. These labels are the line's own
    verdicts: look at the pictures, and move what is wrong, before you train. With --reviewed, the labels are the
    reviewers', and pictures on which they contradict each other are left out. manifest.jsonl has the event and the
    review of each picture. After Ctrl-C, the pictures copied so far are complete.
    """
    store = EvidenceStore(evidence_of(line))
    entries = store.entries(newest_first=False, since=since, verdicts=verdicts, is_reviewed=True if reviewed else None)
    wanted = [(entry.day, entry.picture) for entry in entries]  # not the entries, which have all tiles
    if not wanted:
        kind = "reviewed picture" if reviewed else "picture"
        raise InputError(f"{store.folder} holds no {kind} to export; heatline evidence list shows what there is")
    copied: Counter[str] = Counter()
    with writing(out), progress_bar() as progress:
        make_empty(out, "OUT")
        task = progress.add_task("pictures", total=len(wanted))
        with (out / MANIFEST).open("wb") as manifest:
            for day, picture in wanted:
                entry = store.find(picture, day)
                copied[MISSING if entry is None else _copy(store, entry, out, manifest, reviewed)] += 1
                progress.advance(task)
    missing, contradictory = copied.pop(MISSING, 0), copied.pop(CONTRADICTORY, 0)
    if missing:
        print_warnings([f"{format_count(missing, 'picture')} could not be copied, as they were deleted meanwhile"])
    notes = [f"{format_count(count, 'picture')} in {out / folder}" for folder, count in sorted(copied.items())]
    if contradictory:
        notes.append(f"{format_count(contradictory, 'picture')} left out, as their reviewers contradict each other")
    if not reviewed:
        notes.append(
            "The labels are the line's own verdicts: look at the pictures, and move what is wrong, before you train"
        )
    report = {"folder": str(out), "pictures": dict(copied), "missing": missing, "contradictory": contradictory}
    print_report(report, as_json, "", notes=notes)


def _copy(store: EvidenceStore, entry: EvidenceEntry, out: Path, manifest: BinaryIO, by_review: bool) -> str:
    """Copy a frame and write its row, and return its subfolder, by the review or by the verdict, or why it was not
    copied: `MISSING`, `CONTRADICTORY`.
    """
    review = entry.review
    folder: str | None = FOLDERS[entry.event.verdict]
    if by_review:
        folder = None if review is None else review.truth
    if folder is None:
        return CONTRADICTORY if review else MISSING  # MISSING: the last mark was withdrawn meanwhile
    # The day keeps pictures of one id apart. Both are checked to be safe in a path.
    target = out / folder / f"{entry.day}_{entry.picture}.png"
    frame = store.frame_path(entry.picture, entry.day)
    if frame is None:
        return MISSING
    target.parent.mkdir(exist_ok=True)
    with replacing(target) as new:
        shutil.copyfile(frame, new)
        row = ManifestRow(
            file=f"{folder}/{target.name}",
            picture=entry.picture,
            line=entry.line,
            day=entry.day,
            event=entry.event,
            review=review,
        )
        # Before the picture gets its name, so that no picture is without its row after Ctrl-C.
        manifest.write(encode_json(row) + b"\n")
        manifest.flush()
    return folder
