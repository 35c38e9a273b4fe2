"""`make delivery` and `make power-cuts`: their figures, their command line, and both of them run."""

import contextlib
import json
import re
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import Times
from tests.edge.followed_line import event
from tests.system import delivery
from tests.system.chaos.clients import Got, Record
from tests.system.command import Result, run
from tests.system.delivery import Delivery, Latency, Window, came_at, measure_delivery, window_of
from tests.system.delivery import faults as delivery_faults
from tests.system.power_cuts import PowerCuts, measure_power_cuts, verify
from tests.system.power_cuts import faults as cut_faults

MS = 1_000_000


def test_each_event_is_timed_from_the_hand_over_and_from_live_to_durable(tmp_path: Path) -> None:
    values = [int(value) for value in np.random.default_rng(1).permutation(101) * MS]
    assert Latency.of(values) == Latency(p50=50, p90=90, p95=95, p99=99, most=100)
    numbers = (1, 2, 3, 4, 5, 6, 7, 11)
    captured = {seq: Times(captured_at_ns=0, captured_monotonic_ns=10 * seq * MS) for seq in numbers}
    events = [event(seq, "verdict.cam0.GOOD", None) for seq in numbers]
    received = [
        (msgspec.structs.replace(one, times=captured[one.seq], latency_ms=4), (10 * one.seq + 6) * MS) for one in events
    ]
    followed = {seq: (10 * seq + 6 + (1 if seq <= 4 else 3)) * MS for seq in numbers if seq != 5}
    window = window_of(received, followed, 2.0)
    assert (window.journal, window.events_per_s, window.not_received, window.not_followed) == (True, 4.0, 3, 1)
    assert window.added is not None
    assert (window.sending.p50, window.sending.most, window.added.p50, window.added.most) == (2, 2, 1, 3)
    without = window_of(received, None, 1.0)
    assert (without.journal, without.added, without.not_followed) == (False, None, 0)
    with pytest.raises(AssertionError, match="no event came within a window"):
        window_of([], None, 1.0)
    with contextlib.closing(Record(tmp_path / "record")) as record:
        for seq, at_ns in ((1, 100), (2, 200), (1, 300)):
            header = msgspec.json.encode({"type": "alarm", "boot_id": "a", "seq": seq})
            record.add(Got(at_ns=at_ns, header=msgspec.Raw(header)))
    came = came_at(tmp_path / "record")
    assert came[2] - came[1] == pytest.approx(100), "only the first receipt of an event counts"


def test_a_rate_that_is_not_sustained_is_a_fault() -> None:
    times = Latency(p50=1, p90=1, p95=2, p99=3, most=4)
    window = Window(
        journal=True, events_per_s=500, verdicts={"GOOD": 4000, "failed.wrong_size": 1000}, not_received=0,
        not_followed=0, sending=times, added=times,
    )  # fmt: skip
    for changes, wrong in (
        ({}, []),
        ({"events_per_s": 450.0}, ["450 events a second came, not 500"]),
        ({"verdicts": {"GOOD": 1, "dropped.overload": 2}}, ["frames were lost: dropped.overload 2"]),
        ({"not_received": 1}, ["1 events were not received live, 0 not durably"]),
        ({"not_followed": 2}, ["0 events were not received live, 2 not durably"]),
    ):
        found = Delivery(
            disk="ext4", events_per_s=500, highest_fps=500, inspected_fps=400, refused_fps=100,
            windows=[msgspec.structs.replace(window, **changes)],
        )  # fmt: skip
        assert delivery_faults(found) == [f"with a journal: {one}" for one in wrong]


@pytest.mark.long
def test_events_are_timed_with_a_journal_and_without(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FRAMES_FOR_A_RATE", 50), ("SHARE_OF_HIGHEST", 0.1), ("SETTLE_S", 0.5)):
        monkeypatch.setattr(delivery, name, value)
    kept, bare = measure_delivery(bundle, events_per_s=0, seconds=1, repetitions=1).windows
    assert (kept.journal, bare.journal) == (True, False)
    assert min(kept.events_per_s, bare.events_per_s) > 0
    assert (kept.not_followed, bare.added) == (0, None)
    assert kept.added is not None
    assert 0 < kept.sending.p50 <= kept.sending.most


@pytest.mark.parametrize(("cuts", "life_s"), [(2, 2.0), pytest.param(20, 6.0, marks=pytest.mark.long)])
def test_a_subscriber_misses_no_result_when_line_and_broker_die(bundle: Bundle, cuts: int, life_s: float) -> None:
    found = measure_power_cuts(
        bundle, seed=3, cuts=cuts, rate_fps=20, autosave_s=1, republish_s=5, longest_life_s=life_s
    )
    assert cut_faults(found) == []
    assert found.cuts == cuts
    assert found.results > 0


def test_what_is_missing_repeated_or_late_is_counted_and_a_repeated_result_is_not_late() -> None:
    received = [("left", 1, "j-1"), ("right", 4, "j-4"), ("left", 3, "j-3"), ("left", 1, "j-1"), ("left", 2, "j-2")]
    assert verify(["j-1", "j-2", "j-3", "j-4", "j-5"], received) == (1, 1, 1)
    found = PowerCuts(
        seed=1, autosave_s=1, republish_s=5, cuts=1, away_at_a_cut=0, results=5, missing=1, repeated=1, out_of_order=1
    )
    assert cut_faults(found) == ["1 of 5 results are missing", "1 of 5 results came after a later one of their camera"]
    nothing = msgspec.structs.replace(found, results=0, missing=0, out_of_order=0)
    assert cut_faults(nothing) == ["no result was journalled"]


class Found(msgspec.Struct):
    frames: int


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore the signal handlers that `run` sets."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def code_of(measure: Callable[[Namespace, Bundle], Result], bundle: Bundle, out: Path | None) -> int:
    return run("soak", Namespace(bundle=bundle.path, out=out), measure)


def test_a_result_is_printed_and_written_and_a_fault_fails_the_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soak.json"
    assert code_of(lambda *_: (Found(7), []), bundle, out) == 0
    assert json.loads(out.read_text()).keys() >= {"bench", "machine", "frames"}
    assert re.search(r"frames +7", capsys.readouterr().out)
    assert code_of(lambda *_: (Found(8), ["it grows", "it is late"]), bundle, out) == 14
    assert json.loads(out.read_text())["frames"] == 8, "a result with faults is written too"
    assert "soak: it grows; it is late" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_clean_up(bundle: Bundle, number: signal.Signals) -> None:
    over: list[bool] = []

    def measure(*_: object) -> Result:
        try:
            signal.raise_signal(number)
            pytest.fail("the run continued")
        finally:
            over.append(True)

    assert code_of(measure, bundle, None) == 130
    assert over == [True]
