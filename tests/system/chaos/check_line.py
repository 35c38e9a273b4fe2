"""Whether the line reported every frame and its journal holds it: its numbers, its frames, and what it says it does not
hold. Pure functions.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise

import msgspec

from tests.system.chaos.expected import Broken, Expected
from tests.system.chaos.records import Head, head_of

HIGHEST_FRAME_ID = 65535
"""Of the pattern camera; 1 follows."""


def check_journal(expected: Expected) -> list[Broken]:
    """Whether each journal counts without a gap, and holds what it says it holds."""
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
                add_broken(journal_id, stored.seq, f"is {head.key} of {head.topic}, kept under {stored.topic}")
            previous = last.get(head.topic, 0)
            if records[0].seq == 1 and head.previous_seq != previous:
                add_broken(journal_id, stored.seq, f"says that {head.previous_seq} came before it, not {previous}")
            last[head.topic] = stored.seq
    return broken


def check_frames(expected: Expected, unheard: Mapping[str, int]) -> list[Broken]:
    """Whether the line told of every frame once: per boot and camera, numbers go on from 1 without a gap; and what was
    in flight at a kill is what follows the last frame that was told before it.

    Args:
        unheard: by boot, how many events there may be that no journal holds and nobody heard.
    """
    broken = []
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    unjournalled = [head for head in map(head_of, expected.unjournalled) if head.type == "verdict"]
    verdicts = [head for head in heads if head.type == "verdict"]
    in_order = sorted([*verdicts, *unjournalled], key=lambda head: (head.boot_id, head.camera or "", head.frame_number))
    for (boot_id, camera), told in groupby(in_order, key=lambda head: (head.boot_id, head.camera)):
        left, number = unheard.get(boot_id, 0), 0
        for head in told:
            if head.frame_number != number + 1:
                left -= 1
                if head.frame_number <= number or left < 0:
                    what = f"boot {boot_id}, camera {camera}: frame number {head.frame_number} follows {number}"
                    broken.append(Broken("line", "frames", what))
            number = head.frame_number + head.frames - 1
    not_all_stored = {head.boot_id for head in unjournalled} | {boot_id for boot_id, count in unheard.items() if count}
    return broken + _check_twice(verdicts) + _check_twice(unjournalled) + _check_crashes(verdicts, not_all_stored)


def _check_twice(verdicts: Iterable[Head]) -> list[Broken]:
    """No frame is told by two events, of one boot or of two. Only one that went out live alone may be told again as
    one that was in flight: killed meanwhile, a line cannot know."""
    broken = []
    seen: dict[tuple[str | None, int | None, int], Head] = {}
    for head in verdicts:
        captured_ns = head.times.get("captured_at_ns")
        if not captured_ns or head.frame_id is None:
            continue  # nobody knows any more when, or which frame it was
        before = seen.setdefault((head.camera, head.frame_id, captured_ns), head)
        if before is not head:
            what = f"camera {head.camera}: frame {head.frame_id} is told by {before.key} and by {head.key}"
            broken.append(Broken("line", "frames", what))
    return broken


def _check_crashes(verdicts: Sequence[Head], not_all_stored: Collection[str]) -> list[Broken]:
    """In the journal's order, the frame ids of a camera go on from a boot's frames to those in flight at its end."""
    broken = []
    by_camera: dict[str | None, list[Head]] = defaultdict(list)
    for head in verdicts:
        by_camera[head.camera].append(head)
    for camera, told in by_camera.items():
        for before, head in pairwise(told):
            if {before.boot_id, head.boot_id} & set(not_all_stored) or head.reason != "dropped.crashed":
                continue
            last = before.last_frame_id or before.frame_id
            if last is None or head.frame_id in (None, 1, last % HIGHEST_FRAME_ID + 1):  # 1: nothing of a boot was told
                continue
            what = f"camera {camera}: after frame {last} was told, {head.frame_id} is the first that was in flight"
            broken.append(Broken("line", "frames", what))
    return broken


def check_told(expected: Expected) -> list[Broken]:
    """Whether the journal says of each boot which events it does not hold, or after a kill, of how many frames."""
    broken = []
    for boot_id, told in _told_as_not_held(expected).items():
        if told.frames_heard > told.frames:
            what = f"events of {told.frames_heard} frames of boot {boot_id} were heard that it does not hold"
            broken.append(Broken("journal", "told", f"{what}; it says {told.frames}"))
    return broken


def unheard_events(expected: Expected) -> dict[str, int]:
    """By boot: at most how many events there may be that no journal holds and nobody heard, as the journal tells."""
    told = {boot_id: told.unheard for boot_id, told in _told_as_not_held(expected).items()}
    return {boot_id: count for boot_id, count in told.items() if count}


class _NotHeld(msgspec.Struct):
    """What a journal says of a boot's events that it does not hold."""

    numbers: set[int] = msgspec.field(default_factory=set)
    """In the boot's own count: of times after which events were kept again."""
    frames: int = 0
    """Beside those: told of before it was killed."""
    frames_heard: int = 0
    numbers_heard: int = 0

    @property
    def unheard(self) -> int:
        return len(self.numbers) - self.numbers_heard + max(self.frames - self.frames_heard, 0)


def _told_as_not_held(expected: Expected) -> dict[str, _NotHeld]:
    """By boot."""
    told: dict[str, _NotHeld] = defaultdict(_NotHeld)
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    told_by: dict[str, str] = {}
    for head in heads:
        if head.what == "recording" and head.first_seq is not None and head.last_seq is not None:
            told[head.of_boot or head.boot_id].numbers |= set(range(head.first_seq, head.last_seq + 1))
        elif head.what == "unrecorded" and head.of_boot is not None:
            told[head.of_boot].frames += head.events or 0
            told_by[head.of_boot] = head.boot_id
    crashed = {
        (head.boot_id, head.camera, frame_id)
        for head in heads
        if head.reason == "dropped.crashed"
        for frame_id in _frame_ids(head)
    }
    for head in map(head_of, expected.unjournalled):
        of_boot = told[head.boot_id]
        if head.seq in of_boot.numbers:
            of_boot.numbers_heard += 1
        elif head.type == "verdict":
            # Killed between telling and noting that it had told, it tells of these again, as of frames in flight.
            again = (told_by.get(head.boot_id, ""), head.camera, head.frame_id) in crashed
            of_boot.frames_heard += 0 if again else head.frames
    return told


def _frame_ids(head: Head) -> Iterable[int]:
    """Of a frame, or of a run of them."""
    if head.frame_id is None:
        return []
    return ((head.frame_id + further - 1) % HIGHEST_FRAME_ID + 1 for further in range(head.frames))
