"""`make delivery` and `make hostile`: their figures are computed from the events, and both run."""

import contextlib
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.bench.spread import Latency, Spread
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire import commands, following
from heatline.edge.wire.requests import Refused
from tests.bench import made_results as made
from tests.system import delivery
from tests.system.chaos.records import Got, Record
from tests.system.delivery import MOST_GROWTH_MS, Delivery, Window, came_at, latency_of, measure_delivery, window_of
from tests.system.delivery import faults as delivery_faults
from tests.system.hostile import MOST_PSS_GROWTH_BYTES, Hostile, Round, measure_hostile
from tests.system.hostile import faults as hostile_faults
from tests.system.hostile import to_facts as hostile_facts
from tests.system.hostile_messages import MOST_PARTS, malformed_messages, valid_messages

MS = 1_000_000


def test_each_event_is_timed_from_capture_from_hand_over_and_from_live_to_durable(tmp_path: Path) -> None:
    values = [int(value) for value in np.random.default_rng(1).permutation(101) * MS]
    assert latency_of(np.array(values)) == Latency(p50=50, p90=90, p95=95, p99=99, most=100)
    received = [(made.verdict(seq, 10 * seq, latency_ms=4), (10 * seq + 6) * MS) for seq in range(1, 9)]
    followed = {seq: (10 * seq + 6 + (1 if seq <= 4 else 3)) * MS for seq in range(1, 9) if seq != 5}
    window = window_of(received, followed, 2.0, 3, {"service": 1.5})
    assert (window.events, window.events_per_s, window.inspected_per_s) == (8, 4.0, 4.0)
    assert (window.live.p50, window.live.most) == (6, 6)
    assert (window.sending.p50, window.sending.most) == (2, 2)
    assert window.durable is not None
    assert window.added is not None
    assert (window.added.p50, window.added.most, window.durable.most) == (1, 3, 9)
    assert (window.not_received, window.not_followed, window.added_growth_ms) == (3, 1, 2)
    with pytest.raises(BenchError, match="no event came within a window"):
        window_of([], None, 1.0, 0, {})
    without = window_of(received, None, 1.0, 0, {})
    assert (without.journal, without.durable, without.added, without.not_followed) == (False, None, None, 0)
    with contextlib.closing(Record(tmp_path / "record")) as record:
        for seq, at_ns in ((1, 100), (2, 200), (1, 300)):
            header = msgspec.json.encode({"type": "alarm", "boot_id": "a", "seq": seq})
            record.add(Got(at_ns=at_ns, header=msgspec.Raw(header)))
    came = came_at(tmp_path / "record")
    assert came[2] - came[1] == pytest.approx(100), "only the first receipt of an event counts"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"events_per_s": 450.0}, "450 events a second came, not 500"),
        ({"verdicts": {"GOOD": 1, "dropped.overload": 2}}, "frames were lost: dropped.overload 2"),
        ({"not_received": 1}, "1 events were not received live, 0 not durably"),
        ({"not_followed": 2}, "0 events were not received live, 2 not durably"),
        ({"added_growth_ms": MOST_GROWTH_MS + 1}, "the durable consumer fell back by 101 ms"),
    ],
)
def test_a_rate_that_is_not_sustained_is_a_fault(changes: dict[str, Any], words: str | None) -> None:
    times = Latency(p50=1, p90=1, p95=2, p99=3, most=4)
    window = Window(
        journal=True, seconds=10, events=5000, events_per_s=500, inspected_per_s=400,
        verdicts={"GOOD": 4000, "failed.wrong_size": 1000}, not_received=0, not_followed=0, live=times, sending=times,
        durable=times, added=times, added_growth_ms=1, cpu={"service": 1.5},
    )  # fmt: skip
    found = Delivery(
        bundle="b", commit=None, disk="ext4", events_per_s=500, highest_fps=500,
        inspected_fps=400, refused_fps=100, windows=[msgspec.structs.replace(window, **changes)],
    )  # fmt: skip
    assert len(delivery_faults(found)) == (words is not None)
    assert words is None or words in delivery_faults(found)[0]


@pytest.mark.long
def test_events_are_timed_through_a_real_line_with_a_journal_and_without(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FRAMES_FOR_A_RATE", 50), ("SHARE_OF_HIGHEST", 0.1), ("SETTLE_S", 0.5)):
        monkeypatch.setattr(delivery, name, value)
    options: dict[str, Any] = {"events_per_s": 0, "seconds": 1, "repetitions": 1, "folder": None}
    kept, bare = measure_delivery(bundle, **options, report_line=lambda line: None).windows
    assert (kept.journal, bare.journal) == (True, False)
    assert min(kept.events, bare.events) > 0
    assert kept.not_followed == 0
    assert kept.durable is not None
    assert 0 < kept.live.p50 <= kept.live.most
    assert kept.durable.p50 > kept.sending.p50
    assert {"service", "cameras", "live listener", "durable consumer"} == set(kept.cpu)


@given(st.integers(0, 2**32))
def test_every_malformed_message_is_refused_with_its_reason_and_no_valid_one(seed: int) -> None:
    messages_of = malformed_messages(random.Random(seed), "cam0", 200)
    assert messages_of == malformed_messages(random.Random(seed), "cam0", 200)
    for parts in messages_of["events"]:
        assert parts[0][:1] not in (b"\x00", b"\x01")
        assert len(parts) <= MOST_PARTS
    for read_request, refused, messages in (
        (commands.request_from, Refused, messages_of["commands"]),
        (following.request_from, Refused, messages_of["journal"]),
    ):
        of_one_part = [parts[0] for parts in messages if len(parts) == 1]
        assert len(of_one_part) > 100
        for data in of_one_part:
            request = read_request(data)
            assert isinstance(request, refused), data
            assert request.reason in ("malformed", "version")
    valid = valid_messages("cam0", "mes", "0" * 32)
    assert {parts[0][0] for parts in valid["events"]} == {0, 1}
    assert isinstance(commands.request_from(valid["commands"][0][0]), commands.TriggerRequest)
    assert isinstance(following.request_from(valid["journal"][0][0]), following.AckRequest)


def test_messages_that_cost_time_frames_or_memory_and_a_slow_sender_are_faults() -> None:
    def hostile(ratio: float, sent: int, lost: dict[str, int] | None = None, grown_bytes: int = 1) -> Hostile:
        one = Round(
            what="malformed", seconds=10, frames=1000, lost=lost or {}, cpu_ms_per_frame=8, replies={},
            sent={"events": sent, "commands": 3000, "journal": 3000},
        )  # fmt: skip
        rounds = [msgspec.structs.replace(one, what=what) for what in ("nothing", "valid", "malformed")]
        return Hostile(
            bundle="b", commit=None, rate_fps=100, messages_per_s=300, rounds=rounds,
            ratio=ratio, ratio_spread=Spread(ratio, ratio, ratio), pss_bytes=(1, 1 + grown_bytes),
        )  # fmt: skip

    assert hostile_faults(hostile(1.05, 3000)) == []
    assert "1.060 times the CPU" in hostile_faults(hostile(1.06, 3000))[0]
    lossy = hostile(1.0, 3000, {"dropped.overload": 2})
    assert hostile_faults(lossy) == ["frames were lost: dropped.overload 6"]
    assert hostile_facts(lossy)["frames lost"] == "dropped.overload 6"
    assert hostile_faults(hostile(1.0, 3000, grown_bytes=MOST_PSS_GROWTH_BYTES)) == []
    assert "its PSS grew by 20.0 MB" in hostile_faults(hostile(1.0, 3000, grown_bytes=20_000_000))[0]
    assert hostile_faults(hostile(1.0, 2000)) == [
        f"only 2000 {what} messages were sent in 10.0 s" for what in ("valid", "malformed")
    ]


@pytest.mark.long
def test_a_real_line_refuses_malformed_messages_and_continues_to_inspect(bundle: Bundle) -> None:
    options: dict[str, Any] = {"rate_fps": 20, "messages_per_s": 50, "seconds": 1, "rounds": 1}
    found = measure_hostile(bundle, **options, report_line=lambda _line: None)
    by_what = {each.what: each for each in found.rounds}
    assert all(each.frames > 0 for each in found.rounds)
    assert by_what["nothing"].sent == {}
    assert all(count > 50 for what in ("valid", "malformed") for count in by_what[what].sent.values())
    refused, valid = by_what["malformed"].replies, by_what["valid"].replies
    assert min(refused["commands malformed"], refused["journal malformed"], valid["commands not_triggered"]) > 0
    assert not any("malformed" in kind for kind in valid)
    assert found.ratio > 0
