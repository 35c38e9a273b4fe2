"""One verdict for a part that several pictures show: each part ends in exactly one event, whatever happens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from heatline.edge.bundle import Bundle
from heatline.edge.config import load_config
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.errors import ConfigError
from heatline.edge.inspection.parts import LATE_NS, Part, Parts
from heatline.edge.service.line import PARTS_OPEN
from heatline.edge.wire.events import (
    PartAccount,
    PartEvent,
    PartVerdict,
    StatusEvent,
    Verdict,
    VerdictEvent,
    event_from,
)
from tests.command import complaint, heatline
from tests.edge.evidences import EXAMPLES
from tests.edge.lines import running, write_line_with

MS = 10**6
WITHIN_MS = 100
UTC_NS = 1_790_000_000 * 10**9
"""UTC at the monotonic time 0 of a test."""
VIEWS = ["top", "side", "side"]
VERDICTS = st.sampled_from(("GOOD", "GOOD", "GOOD", "DEFECT", "NO_VERDICT"))


@dataclass
class Journal:
    """What a line has journalled: verdicts of frames and parts, each with the time of its event, ms."""

    views: Sequence[str] = tuple(VIEWS)
    now_ms: int = 1000
    events: list[tuple[int, VerdictEvent | PartEvent]] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    boot: int = 0

    def __post_init__(self) -> None:
        self.boot_again(0)

    def boot_again(self, lost: int) -> list[VerdictEvent]:
        """Kill the line while its last events are not journalled yet, and start it. Return the frames among them."""
        cut = max(len(self.events) - lost, 0)
        gone, self.events[cut:] = [event for _, event in self.events[cut:]], []
        self.boot += 1
        self.frames.clear()
        self.parts = Parts(self.views, WITHIN_MS / 1e3, self._emit)
        known = [event for _, event in self.events]
        self.parts.resume(known, self.now_ms * MS, UTC_NS + self.now_ms * MS, is_all=True)
        return [event for event in gone if isinstance(event, VerdictEvent)]

    def frame(self, camera: str, verdict: Verdict, part_id: str | None, captured_ms: int, count: int = 1) -> None:
        """Emit the verdict of a frame."""
        example, captured_ns = EXAMPLES[verdict], captured_ms * MS
        times = replace(example.times, captured_at_ns=UTC_NS + captured_ns, captured_monotonic_ns=captured_ns)
        number = self.frames[camera] + 1
        self.frames[camera] += count
        event = replace(
            example, camera=camera, part_id=part_id, times=times, boot_id=f"boot{self.boot}", frame_number=number,
            frames=count,
        )  # fmt: skip
        self.parts.expire(self.now_ms * MS)
        self.events.append((self.now_ms, event))
        self.parts.add(event, self.now_ms * MS)

    def pass_ms(self, ms: int) -> None:
        self.now_ms += ms
        self.parts.expire(self.now_ms * MS)

    def _emit(self, part: Part, verdict: PartVerdict) -> None:
        product, bundle = part.setups[-1]
        event = PartEvent(
            boot_id=f"boot{self.boot}", seq=1, previous_seq=0, at_ns=0, line="line1", part_id=part.part_id,
            **verdict._asdict(), views=list(part.views), missing=list(part.missing), began_at_ns=0, latency_ms=0.0,
            bundle=bundle, product=product, acting=part.acting,
        )  # fmt: skip
        self.events.append((self.now_ms, event))

    @property
    def ended(self) -> list[PartEvent]:
        return [event for _, event in self.events if isinstance(event, PartEvent)]


def expected(frames: list[tuple[int, VerdictEvent]]) -> str:
    """Return the verdict of a part by all of its frames, each with the time of its event."""
    first_ms = min(event.times.captured_monotonic_ns for _, event in frames[:1]) // MS
    in_time = [event for at_ms, event in frames if at_ms < first_ms + WITHIN_MS]
    kinds = [event.verdict for event in in_time]
    if "DEFECT" in kinds:
        return "DEFECT"
    return (
        "GOOD" if sorted(event.camera for event in in_time) == sorted(VIEWS) and {*kinds} == {"GOOD"} else "NO_VERDICT"
    )


class PartsThroughCrashes(RuleBasedStateMachine):
    """Frames of parts with ids, in any order, late or never, while the line is killed."""

    @initialize()
    def begin(self) -> None:
        self.journal = Journal()
        self.left = {f"P{n}": [*VIEWS] for n in range(12)}

    @rule(part=st.integers(0, 11), at=st.integers(0, 2), verdict=VERDICTS, ago_ms=st.integers(0, 30))
    def picture(self, part: int, at: int, verdict: Verdict, ago_ms: int) -> None:
        left = self.left[f"P{part}"]
        if left:
            self.journal.frame(left.pop(at % len(left)), verdict, f"P{part}", self.journal.now_ms)
            self.journal.pass_ms(ago_ms)

    @rule(ms=st.integers(1, 300))
    def wait(self, ms: int) -> None:
        self.journal.pass_ms(ms)

    @rule(lost=st.integers(0, 4), down_ms=st.integers(0, 200))
    def kill(self, lost: int, down_ms: int) -> None:
        self.journal.now_ms += down_ms
        for event in self.journal.boot_again(lost):
            self.journal.frame(event.camera, "NO_VERDICT", event.part_id, event.times.captured_monotonic_ns // MS)

    @invariant()
    def no_part_has_two_events(self) -> None:
        if hasattr(self, "journal"):
            account = self.journal.parts.account
            assert account.announced == account.judged + account.no_verdict + account.open
            ids = [event.part_id for event in self.journal.ended]
            assert len(ids) == len({*ids})

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.journal.pass_ms(WITHIN_MS)
        assert self.journal.parts.account.open == 0
        frames: dict[str | None, list[tuple[int, VerdictEvent]]] = defaultdict(list)
        for at_ms, event in self.journal.events:
            if isinstance(event, VerdictEvent):
                frames[event.part_id].append((at_ms, event))
        assert {event.part_id: event.verdict for event in self.journal.ended} == {
            part_id: expected(found) for part_id, found in frames.items()
        }


PartsThroughCrashes.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPartsThroughCrashes = pytest.mark.hypothesis(PartsThroughCrashes.TestCase)


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), VERDICTS), max_size=12))
def test_without_ids_pictures_of_two_parts_are_never_mixed_whatever_is_lost(parts: list[Any]) -> None:
    journal, wanted = Journal(), []
    for lost, verdict in parts:
        begin_ms = journal.now_ms
        for camera, is_lost in zip(VIEWS, lost, strict=True):
            if not is_lost:
                journal.frame(camera, verdict, None, journal.now_ms)
            journal.pass_ms(20)
        journal.pass_ms(begin_ms + WITHIN_MS + 60 - journal.now_ms)
        if not all(lost):
            missing = [camera for camera, is_lost in zip(VIEWS, lost, strict=True) if is_lost]
            wanted.append(verdict if verdict == "DEFECT" or not missing else "NO_VERDICT")
    assert [event.verdict for event in journal.ended] == wanted
    for event in journal.ended:
        assert max(view.captured_at_ns for view in event.views) - event.views[0].captured_at_ns < WITHIN_MS * MS


def test_a_picture_that_came_too_late_while_the_line_knew_no_parts_makes_none_good() -> None:
    journal = Journal(["top", "side"])
    journal.parts = Parts(["another"], 1, journal._emit)
    for camera in journal.views:
        journal.frame(camera, "GOOD", "P1", journal.now_ms)
        journal.now_ms += WITHIN_MS
    journal.boot_again(0)
    assert [each.reason for each in journal.ended] == ["part.missing"]


def test_what_a_part_lacks_is_named_and_a_late_picture_belongs_to_no_other_part() -> None:
    journal = Journal(["top", "side"])
    journal.frame("top", "DEFECT", "P1", 1000)
    journal.frame("side", "GOOD", "P1", 1000)
    journal.frame("top", "GOOD", "P2", 1000)
    journal.pass_ms(WITHIN_MS)
    journal.frame("side", "GOOD", "P2", 1000)
    journal.frame("other", "GOOD", "P2", 1000)
    for camera in ("side", "top"):
        journal.frame(camera, "GOOD", "P1", 1100)  # its id comes twice
    journal.frame("top", "NO_VERDICT", None, 1100, count=2)  # a run of lost frames
    journal.frame("side", "GOOD", None, 1100)
    journal.frame("side", "GOOD", None, 1100)
    journal.frame("top", "GOOD", "P3", 1100)
    journal.parts.stop()
    defect, missing, again, lost, _, stopped = journal.ended
    assert (defect.verdict, defect.missing, len(defect.views), again.verdict) == ("DEFECT", ["side"], 1, "GOOD")
    assert (missing.reason, missing.detail) == ("part.missing", "no verdict of camera side came within 100 ms")
    assert (lost.reason, lost.detail) == ("part.view", f"a picture has no verdict: camera top: {lost.views[0].reason}")
    assert stopped.detail == "no verdict of camera side came before the line was stopped"
    assert journal.parts.account == PartAccount(announced=6, judged=2, no_verdict=4)
    journal.now_ms += LATE_NS // MS + 2 * WITHIN_MS
    journal.frame("side", "GOOD", "P3", journal.now_ms)
    assert journal.parts.account.open == 1, "an id that comes again much later is another part"
    other = EXAMPLES["GOOD"]
    changed = replace(other, camera="top", part_id="P3", product="another", frames=1, times=journal.events[-1][1].times)
    journal.parts.add(changed, journal.now_ms * MS)
    assert journal.ended[-1].reason == "part.changed"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_each_triggered_part_has_one_event_through_kills_of_the_line(
    tmp_path: Path, bundle: Bundle, address: str, kills: int
) -> None:
    drawn, commands = {"kind": "pattern", "draw_size": [230, 230], "trigger": "software"}, f"ipc://{tmp_path}/commands"
    tables = f'[journal]\nfolder = "state"\n[commands]\nbind = "{commands}"\n[part]\nviews = ["top", "side"]\n'
    line = write_line_with(tmp_path, bundle.path, address, {"top": drawn, "side": drawn}, f"{tables}within_ms = 3000")
    announced: list[str] = []
    for life in range(kills + 1):
        with running(line, address) as run, Commander(commands, timeout_s=60) as commander:
            run.until(lambda event: isinstance(event, StatusEvent) and event.state == "RUNNING")
            for number in range(5):
                announced.append(f"P{life}-{number}")
                commander.trigger("top", announced[-1])
                if number not in (1, 4):  # one part is not seen whole, one is cut in two by the kill
                    commander.trigger("side", announced[-1])
            if life < kills:
                run.process.kill()
                continue
            status = run.until(lambda event: isinstance(event, StatusEvent) and event.parts.open == 0)
            run.end()
    assert not (tmp_path / "state" / PARTS_OPEN).exists(), "the next start has no part to end"
    account = status.parts
    assert account.announced == account.judged + account.no_verdict >= 5
    with JournalReader.open(tmp_path / "state") as journal:
        parts = [event_from(record.header) for record in journal.newest(1000, ["part."])]
    assert sorted(event.part_id for event in parts) == sorted(announced)
    assert {event.part_id for event in parts if event.missing} >= {f"P{life}-1" for life in range(kills + 1)}
    assert "no verdict of camera side came within 3000 ms" in {event.detail for event in parts}


def test_parts_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path, bundle: Bundle, address: str) -> None:
    def line_with(views: str) -> Path:
        table = f"[part]\nviews = {views}\nwithin_ms = 100"
        return write_line_with(tmp_path, bundle.path, address, {"top": {"kind": "pattern"}}, table)

    with pytest.raises(ConfigError, match=r"names 'side', which is no camera of the line: top"):
        load_config(line_with('["top", "side"]'))
    with pytest.raises(ConfigError, match="length >= 1"):
        load_config(line_with("[]"))
    assert "without which a crash would lose parts; set journal.folder" in complaint(
        heatline("check", line_with('["top"]'))
    )
