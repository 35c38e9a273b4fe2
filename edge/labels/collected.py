"""What a line without a bundle has collected: names and numbers of its pictures, and what a training still lacks."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from heatline.edge.config import LineConfig
from heatline.edge.labels.folder import NAMES, Label, LabelFolder
from heatline.edge.util.systemd import state_folder_of
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import VerdictEvent

FOLDER = "pictures"
ENOUGH_DEFECTIVE = 25
"""With as many, the picture AUROC was less than 0.1 below that with all pictures, on every measured fold; with 14 it
was not (docs/training.md)."""
ENOUGH_GOOD = 20
"""Groups: a good picture of a new one, if like them, scores highest, and is rejected, in at most 1 of 21 cases."""
SHIFT_HOURS = 8
LONGEST_PART = 32
"""Characters: with them in UTF-8, a file's name has at most 255 bytes. Of a longer id, the end tells parts apart."""
TIME = "%Y%m%dT%H%M%S%f"
_NAME = re.compile(r"(?:(?P<part>[^_]+)_)?[^_]+_(?P<time>\d{8}T\d{12})Z\d+\.png")


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """How many pictures a line has collected."""

    folder: str
    labels: dict[Label, int]
    parts: dict[Label, int]
    """Different parts; a picture without a part id is a part of its own."""
    days: dict[str, dict[Label, int]]
    """By the UTC day of the capture, the newest first."""
    missing: list[str]
    """What a training lacks, in words; empty: nothing."""


def collect_folder(file: Path, config: LineConfig) -> Path:
    """Return the folder into which the line of a file collects."""
    return config.collect.folder or (state_folder_of(file) or file.absolute().parent) / FOLDER


def name_of(event: VerdictEvent) -> str:
    """Return the name of a frame's file: part, camera, and the time of capture with the frame's number. Each is one
    word, so that a training finds the part as the group (docs/training.md#split).
    """
    words = [event.camera] if event.part_id is None else [event.part_id[-LONGEST_PART:], event.camera]
    words = [re.sub(r"[\W_]+", "~", word).strip("~") or "0" for word in words]
    taken = datetime.fromtimestamp(event.times.captured_at_ns / 1e9, UTC)
    return "_".join([*words, f"{taken:{TIME}}Z{event.frame_number}.png"])


def count_collected(folder: Path) -> Collected:
    """Count the pictures of a folder, which need not exist; an InputError if it cannot be read."""
    counts, times = dict.fromkeys(NAMES, 0), list[str]()  # of good pictures
    found: dict[Label, set[str]] = {label: set() for label in NAMES}
    days: dict[str, dict[Label, int]] = {}
    for path, label, *_ in LabelFolder(folder).pictures().values() if folder.is_dir() else ():
        counts[label] += 1
        match = _NAME.fullmatch(path.name)
        found[label].add((match and match["part"]) or path.name)
        if match:
            time = match["time"]
            days.setdefault(f"{time[:4]}-{time[4:6]}-{time[6:8]}", dict.fromkeys(NAMES, 0))[label] += 1
            times += [time] if label == "good" else []
    parts = {label: len(each) for label, each in found.items()}
    times.sort()
    missing = []
    if (lacking := ENOUGH_GOOD - parts["good"]) > 0:
        ends = [datetime.strptime(time, TIME) for time in (*times[:1], *times[-1:])]
        one_shift = not ends or ends[1] - ends[0] < timedelta(hours=SHIFT_HOURS)
        missing.append(f"{format_count(lacking, 'more good part')}{', of another shift if you can' * one_shift}")
    if (lacking := ENOUGH_DEFECTIVE - parts["defective"]) > 0:
        missing.append(f"{format_count(lacking, 'more defective part')}, of every kind of defect")
    if counts["unlabelled"]:
        missing.append(f"a label for {format_count(counts['unlabelled'], 'picture')}")
    return Collected(
        folder=str(folder),
        labels=counts,
        parts=parts,
        days=dict(sorted(days.items(), reverse=True)),
        missing=missing,
    )
