"""`heatline evidence export`: copies frames into a folder to train on."""

import shutil
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from heatline.edge.cli.options import VERDICT, day_option
from heatline.edge.cli.output import json_option, make_empty, print_json, print_warnings, progress_bar
from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import MANIFEST, ManifestRow, ReviewRow
from heatline.edge.monitor.store import EvidenceEntry, EvidenceStore, evidence_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import encode_json, format_count
from heatline.edge.wire.events import Verdict

FOLDERS: dict[Verdict, str] = {"GOOD": "good", "DEFECT": "defective", "NO_VERDICT": "no_verdict"}
"""Subfolder of each verdict; `heatline train` reads the first two."""
MISSING, CONTRADICTORY = "", "contradictory"
"""What is counted instead of a subfolder."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    folder: str
    pictures: dict[str, int]
    """Number of pictures by subfolder."""
    missing: int
    """Number of pictures that were deleted before they were copied."""
    contradictory: int
    """Number of pictures that were left out, as their reviewers contradict each other."""


@click.command(epilog="Example: heatline evidence export line1 new-pictures --since 2026-11-21")
@click.argument("line")
@click.argument("out", type=click.Path(path_type=Path))
@day_option("--since", "Only pictures of this UTC day and later ones, as 2026-11-28.")
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
    entries = store.entries(newest_first=False, since=since, is_reviewed=True if reviewed else None)
    wanted = [(entry.day, entry.picture) for entry in entries if entry.event.verdict in verdicts]
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
                copied["" if entry is None else _copy(store, entry, out, manifest, reviewed)] += 1
                progress.advance(task)
    missing, contradictory = copied.pop(MISSING, 0), copied.pop(CONTRADICTORY, 0)
    if missing:
        print_warnings([f"{format_count(missing, 'picture')} could not be copied, as they were deleted meanwhile"])
    if as_json:
        print_json(Exported(folder=str(out), pictures=dict(copied), missing=missing, contradictory=contradictory))
        return
    for folder, count in sorted(copied.items()):
        click.echo(f"{format_count(count, 'picture')} in {out / folder}")
    if contradictory:
        click.echo(f"{format_count(contradictory, 'picture')} left out, as their reviewers contradict each other")
    if not reviewed:
        click.echo(
            "The labels are the line's own verdicts: look at the pictures, and move what is wrong, before you train"
        )


def _copy(store: EvidenceStore, entry: EvidenceEntry, out: Path, manifest: BinaryIO, by_review: bool) -> str:
    """Copy a frame and write its row, and return its subfolder, or why it was not copied: `MISSING`, `CONTRADICTORY`.

    Args:
        by_review: choose the subfolder by the review, else by the verdict.

    Raises:
        OSError: it cannot be copied.
    """
    review = store.review(entry.picture, entry.day)
    folder = FOLDERS[entry.event.verdict]
    if by_review:
        if review is None:  # the last mark was withdrawn meanwhile
            return MISSING
        if review.truth is None:
            return CONTRADICTORY
        folder = review.truth
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
            review=None if review is None else ReviewRow.of(review),
        )
        # Before the picture gets its name, so that no picture is without its row after Ctrl-C.
        manifest.write(encode_json(row) + b"\n")
        manifest.flush()
    return folder
