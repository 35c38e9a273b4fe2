"""Check that the line reported every frame and its journal holds it. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise

import msgspec

from tests.system.chaos.expected import Broken, Expected
from tests.system.chaos.records import Head, head_of

HIGHEST_FRAME_ID = 65535
"""Highest frame id of the pattern camera, after which it begins at 1."""


def check_journal(expected: Expected) -> list[Broken]:
    """Check that each journal has no gap in its numbers, and that its events name their own number and topic."""
    broken = []

    def add_broken(journal_id: str, seq: int, what: str) -> None:
        broken.append(Broken("journal", "journal", f"{journal_id}-{seq} {what}"))

    for journal_id, records in expected.journals.items():
        last: dict[str, int] = {}
        for before, stored in zip([None, *records], records, strict=False):
            head = head_of(stored.header)
            if before is not None and stored.seq != before.seq + 1:
                add_broken(journal_id, stored.seq, f"follows {before.seq}")
            if (head.journal_id, head.seq, head.topic) != (journal_id, stored.seq, stored.topic):
                add_broken(journal_id, stored.seq, f"is {head.key} of {head.topic}, stored under {stored.topic}")
            previous = last.get(head.topic, 0)
            if records[0].seq == 1 and head.previous_seq != previous:
                add_broken(journal_id, stored.seq, f"names {head.previous_seq} as its predecessor, expected {previous}")
            last[head.topic] = stored.seq
    return broken


def check_frames(expected: Expected, unreceived: Mapping[str, int]) -> list[Broken]:
    """Check that the line reported every frame once: per boot and camera, numbers go on from 1 without a gap, and the
    frames in flight at a kill follow the last frame that was reported before it.

    Args:
        unreceived: by boot, the largest number of events that no journal holds and no subscriber received.
    """
    broken = []
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    unjournalled = [head for head in map(head_of, expected.unjournalled) if head.type == "verdict"]
    verdicts = [head for head in heads if head.type == "verdict"]
    in_order = sorted([*verdicts, *unjournalled], key=lambda head: (head.boot_id, head.camera or "", head.frame_number))
    for (boot_id, camera), reported in groupby(in_order, key=lambda head: (head.boot_id, head.camera)):
        left, number = unreceived.get(boot_id, 0), 0
        for head in reported:
            if head.frame_number != number + 1:
                left -= 1
                if head.frame_number <= number or left < 0:
                    what = f"boot {boot_id}, camera {camera}: frame number {head.frame_number} follows {number}"
                    broken.append(Broken("line", "frames", what))
            number = head.frame_number + head.frames - 1
    not_all_stored = {head.boot_id for head in unjournalled} | {
        boot_id for boot_id, count in unreceived.items() if count
    }
    return broken + _check_twice(verdicts) + _check_twice(unjournalled) + _check_crashes(verdicts, not_all_stored)


def _check_twice(verdicts: Iterable[Head]) -> list[Broken]:
    """Check that no two events report one frame. Only a frame whose event was live only may be reported again as in
    flight, as a killed line cannot know of that event."""
    broken = []
    seen: dict[tuple[str | None, int | None, int], Head] = {}
    for head in verdicts:
        captured_ns = head.times.get("captured_at_ns")
        if not captured_ns or head.frame_id is None:
            continue  # it is not known which frame it was, or when
        before = seen.setdefault((head.camera, head.frame_id, captured_ns), head)
        if before is not head:
            what = f"camera {head.camera}: frame {head.frame_id} is reported by {before.key} and by {head.key}"
            broken.append(Broken("line", "frames", what))
    return broken


def _check_crashes(verdicts: Sequence[Head], not_all_stored: Collection[str]) -> list[Broken]:
    """Check that, in the journal's order, the frames in flight at a boot's end follow its frame ids."""
    broken = []
    by_camera: dict[str | None, list[Head]] = defaultdict(list)
    for head in verdicts:
        by_camera[head.camera].append(head)
    for camera, reported in by_camera.items():
        for before, head in pairwise(reported):
            if {before.boot_id, head.boot_id} & set(not_all_stored) or head.reason != "dropped.crashed":
                continue
            last = before.last_frame_id or before.frame_id
            if last is None or head.frame_id in (
                None,
                1,
                last % HIGHEST_FRAME_ID + 1,
            ):  # 1: no frame of the boot was reported
                continue
            what = f"camera {camera}: after reported frame {last}, {head.frame_id} is the first that was in flight"
            broken.append(Broken("line", "frames", what))
    return broken


def check_reports(expected: Expected) -> list[Broken]:
    """Check that the journal reports which events of each boot it lacks, or after a kill, of how many frames."""
    broken = []
    for boot_id, reported in _reported_as_not_held(expected).items():
        if reported.frames_received > reported.frames:
            what = f"events of {reported.frames_received} frames of boot {boot_id} were received that it does not hold"
            broken.append(Broken("journal", "report", f"{what}; it reports {reported.frames}"))
    return broken


def unreceived_events(expected: Expected) -> dict[str, int]:
    """Return by boot the largest number of events that no journal holds and no subscriber received, as it reports."""
    reported = {boot_id: reported.unreceived for boot_id, reported in _reported_as_not_held(expected).items()}
    return {boot_id: count for boot_id, count in reported.items() if count}


class _NotHeld(msgspec.Struct):
    """A journal's report of a boot's events that it does not hold."""

    numbers: set[int] = msgspec.field(default_factory=set)
    """Numbers in the boot's own count, of times after which events were stored again."""
    frames: int = 0
    """Other frames, which were reported before the line was killed."""
    frames_received: int = 0
    numbers_received: int = 0

    @property
    def unreceived(self) -> int:
        return len(self.numbers) - self.numbers_received + max(self.frames - self.frames_received, 0)


def _reported_as_not_held(expected: Expected) -> dict[str, _NotHeld]:
    """Return the reports by boot."""
    reported: dict[str, _NotHeld] = defaultdict(_NotHeld)
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    reported_by: dict[str, str] = {}
    for head in heads:
        if head.kind == "recording" and head.first_seq is not None and head.last_seq is not None:
            reported[head.of_boot or head.boot_id].numbers |= set(range(head.first_seq, head.last_seq + 1))
        elif head.kind == "unrecorded" and head.of_boot is not None:
            reported[head.of_boot].frames += head.events or 0
            reported_by[head.of_boot] = head.boot_id
    crashed = {
        (head.boot_id, head.camera, frame_id)
        for head in heads
        if head.reason == "dropped.crashed"
        for frame_id in _frame_ids(head)
    }
    for head in map(head_of, expected.unjournalled):
        of_boot = reported[head.boot_id]
        if head.seq in of_boot.numbers:
            of_boot.numbers_received += 1
        elif head.type == "verdict":
            # A line that is killed between the event and its record reports these again as frames in flight.
            again = (reported_by.get(head.boot_id, ""), head.camera, head.frame_id) in crashed
            of_boot.frames_received += 0 if again else head.frames
    return reported


def _frame_ids(head: Head) -> Iterable[int]:
    """Return the ids of a frame, or of a run of frames."""
    if head.frame_id is None:
        return []
    return ((head.frame_id + further - 1) % HIGHEST_FRAME_ID + 1 for further in range(head.frames))
