"""`heatline bench delivery` and `heatline bench hostile`: that what they say is so, and that all of them runs.

How fast anything is, is not tested.
"""

import random
from array import array
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench.delivery.rate
from bench.delivery.consumer import read
from bench.delivery.hostile import Hostile, Round, measure_hostile
from bench.delivery.hostile import faults as hostile_faults
from bench.delivery.hostile import to_facts as hostile_facts
from bench.delivery.hostile_messages import MOST_PARTS, malformed_messages, mean_bytes, valid_messages
from bench.delivery.rate import MOST_GROWTH_MS, Delivery, Times, Window, _window_of, measure_delivery
from bench.delivery.rate import faults as delivery_faults
from bench.delivery.rate import to_facts as delivery_facts
from bench.spread import Spread
from edge.bundle import Bundle
from edge.delivery import commands
from edge.delivery.durable import following
from edge.delivery.messages import BundleName, VerdictEvent
from edge.delivery.messages import Times as CaptureTimes

MS = 1_000_000


def verdict(seq: int, captured_ms: float, latency_ms: float, reason: str | None = None) -> VerdictEvent:
    return VerdictEvent(
        boot_id="boot",
        seq=seq,
        camera="cam0",
        frame_id=seq,
        frame_number=seq,
        times=CaptureTimes(captured_at_ns=1, captured_monotonic_ns=round(captured_ms * MS)),
        verdict="NO_VERDICT" if reason else "GOOD",
        reason=reason,
        score_threshold=0,
        evidence_threshold=0,
        precision="f32",
        bundle=BundleName(name="darkness", version="1", digest="0"),
        latency_ms=latency_ms,
        acting=True,
    )


# How late events are.


def test_times_are_those_of_sorting() -> None:
    values = [int(value) for value in np.random.default_rng(1).permutation(101) * MS]
    assert Times.of(values) == Times(50, 95, 99, 100)


def test_of_a_window_each_event_is_timed_from_capture_from_hand_over_and_from_live_to_durable() -> None:
    heard = [(verdict(seq, 10 * seq, 4), (10 * seq + 6) * MS) for seq in range(1, 9)]
    followed = {seq: (10 * seq + 6 + (1 if seq <= 4 else 3)) * MS for seq in range(1, 9) if seq != 5}
    window = _window_of(heard, followed, 2.0, 3, {"service": 1.5})
    assert (window.events, window.events_per_s, window.inspected_per_s) == (8, 4.0, 4.0)
    assert (window.live.p50, window.live.most) == (6, 6)
    assert (window.told.p50, window.told.most) == (2, 2)
    assert window.durable is not None
    assert window.added is not None
    assert (window.added.p50, window.added.most, window.durable.most) == (1, 3, 9)
    assert (window.not_heard, window.not_followed) == (3, 1)
    assert window.added_growth_ms == 2


def test_without_a_journal_nothing_is_said_of_a_durable_consumer() -> None:
    window = _window_of([(verdict(1, 10, 4), 16 * MS)], None, 1.0, 0, {})
    assert (window.journal, window.durable, window.added, window.not_followed) == (False, None, None, 0)


def test_an_event_counts_when_it_came_first(tmp_path: Path) -> None:
    (tmp_path / "came").write_bytes(array("q", [1, 100, 2, 200, 1, 300]).tobytes())
    assert read(tmp_path / "came") == {1: 100, 2: 200}


def delivery_with(**changes: object) -> Delivery:
    """Of one window in which all was well, but for what is changed."""
    times = Times(1, 2, 3, 4)
    window = Window(
        journal=True,
        seconds=10,
        events=5000,
        events_per_s=500,
        inspected_per_s=400,
        verdicts={"GOOD": 4000, "failed.wrong_size": 1000},
        not_heard=0,
        not_followed=0,
        live=times,
        told=times,
        durable=times,
        added=times,
        added_growth_ms=1,
        cpu={"service": 1.5},
    )
    return Delivery(
        bundle="b",
        model="m",
        precision="f32",
        commit=None,
        disk="ext4",
        events_per_s=500,
        highest_fps=500,
        inspected_fps=400,
        refused_fps=100,
        windows=[msgspec.structs.replace(window, **changes)],
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"events_per_s": 450.0}, "450 events a second came, not 500"),
        ({"verdicts": {"GOOD": 1, "dropped.overload": 2}}, "frames were lost: dropped.overload 2"),
        ({"not_heard": 1}, "1 events were not heard live, 0 not durably"),
        ({"not_followed": 2}, "0 events were not heard live, 2 not durably"),
        ({"added_growth_ms": MOST_GROWTH_MS + 1}, "the durable consumer fell back by 101 ms"),
    ],
)
def test_a_rate_that_is_not_sustained_is_told(changes: dict[str, object], words: str) -> None:
    assert delivery_faults(delivery_with()) == []
    (wrong,) = delivery_faults(delivery_with(**changes))
    assert words in wrong


@pytest.mark.long
def test_events_are_timed_through_a_real_line_with_a_journal_and_without(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.delivery.rate, "FRAMES_FOR_A_RATE", 50)
    monkeypatch.setattr(bench.delivery.rate, "SHARE_OF_HIGHEST", 0.1)
    monkeypatch.setattr(bench.delivery.rate, "SETTLE_S", 0.5)
    said: list[str] = []
    found = measure_delivery(bundle, "f32", events_per_s=0, seconds=1, repetitions=1, folder=None, say=said.append)
    kept, bare = found.windows
    assert (kept.journal, bare.journal) == (True, False)
    assert kept.events > 0
    assert bare.events > 0
    assert kept.not_followed == 0
    assert kept.durable is not None
    assert 0 < kept.live.p50 <= kept.live.most
    assert kept.durable.p50 > kept.told.p50
    assert {"service", "cameras", "live listener", "durable consumer"} == set(kept.cpu)
    assert "with a journal: durable after live" in delivery_facts(found)
    assert len(said) == 3


# Hostile messages.


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_every_malformed_message_is_refused_for_what_it_is_and_no_valid_one(seed: int) -> None:
    made = malformed_messages(random.Random(seed), "cam0", 200)
    assert made == malformed_messages(random.Random(seed), "cam0", 200)
    for parts in made["events"]:
        assert parts[0][:1] not in (b"\x00", b"\x01")
        assert len(parts) <= MOST_PARTS
    readers = {
        "commands": (commands.request_from, commands.Refused),
        "journal": (following.request_from, following.Refused),
    }
    for name, (read_request, refused) in readers.items():
        of_one_part = [parts[0] for parts in made[name] if len(parts) == 1]  # type: ignore[index]
        assert len(of_one_part) > 100
        for data in of_one_part:
            said = read_request(data)
            assert isinstance(said, refused), data
            assert said.reason in ("malformed", "version")


def test_every_valid_message_is_one() -> None:
    made = valid_messages("cam0", "mes", "0" * 32)
    assert {parts[0][0] for parts in made["events"]} == {0, 1}
    assert isinstance(commands.request_from(made["commands"][0][0]), commands.TriggerRequest)
    assert isinstance(following.request_from(made["journal"][0][0]), following.AckRequest)
    assert mean_bytes([[b"12", b"345"], [b"1"]]) == 3


def hostile_with(ratio: float, sent: int) -> Hostile:
    one = Round(
        what="malformed",
        seconds=10,
        frames=1000,
        lost={},
        cpu_ms_per_frame=8,
        sent={"events": sent, "commands": 3000, "journal": 3000},
        replies={"commands malformed": 2900},
    )
    kinds = [msgspec.structs.replace(one, what=what) for what in ("nothing", "valid", "malformed")]
    return Hostile(
        bundle="b",
        precision="f32",
        commit=None,
        rate_fps=100,
        messages_per_s=300,
        seed=1,
        rounds=kinds,
        ratio=ratio,
        ratio_spread=Spread(ratio, ratio, ratio),
        pss_bytes=(1, 2),
    )


def test_malformed_messages_that_cost_more_than_valid_ones_are_told_and_so_is_a_sender_that_was_too_slow() -> None:
    assert hostile_faults(hostile_with(1.05, 3000)) == []
    assert "1.060 times the CPU" in hostile_faults(hostile_with(1.06, 3000))[0]
    assert hostile_faults(hostile_with(1.0, 2000)) == [
        "only 2000 valid messages were sent in 10.0 s",
        "only 2000 malformed messages were sent in 10.0 s",
    ]


@pytest.mark.long
def test_a_real_line_refuses_what_is_malformed_and_inspects_on(bundle: Bundle) -> None:
    found = measure_hostile(
        bundle, "f32", rate_fps=20, messages_per_s=50, seconds=1, rounds=1, seed=1, say=lambda _line: None
    )
    by_what = {each.what: each for each in found.rounds}
    assert all(each.frames > 0 for each in found.rounds)
    assert by_what["nothing"].sent == {}
    assert all(count > 50 for what in ("valid", "malformed") for count in by_what[what].sent.values())
    refused = by_what["malformed"].replies
    assert refused["commands malformed"] > 0
    assert refused["journal malformed"] > 0
    valid = by_what["valid"].replies
    assert valid["commands not_triggered"] > 0
    assert not any("malformed" in kind for kind in valid)
    assert found.ratio > 0
    assert "malformed / valid" in hostile_facts(found)
