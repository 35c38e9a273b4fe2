"""Encoding and decoding of a verdict event with ten regions."""

from pytest_benchmark.fixture import BenchmarkFixture

from heatline.edge.wire.events import BundleName, Message, Region, Times, VerdictEvent, from_frames, to_frames

EVENT = VerdictEvent(
    boot_id="0" * 32,
    seq=1,
    camera="top",
    frame_id=1,
    frame_number=1,
    times=Times(captured_at_ns=1, captured_monotonic_ns=1),
    verdict="DEFECT",
    frame_score=3.2,
    score_threshold=1.0,
    evidence_threshold=20.0,
    precision="f32",
    bundle=BundleName(name="boards", version="1", digest="0" * 64),
    previous_seq=0,
    regions=[
        Region((0, 0, 64, 64), [(x, y) for x in range(0, 64, 8) for y in (0, 63)], 4096, (32, 32), 40.0 + number)
        for number in range(10)
    ],
    latency_ms=41.7,
    acting=True,
)


def bench_encode(benchmark: BenchmarkFixture) -> None:
    parts = benchmark(to_frames, Message(EVENT))
    benchmark.extra_info["bytes"] = sum(map(len, parts))


def bench_decode(benchmark: BenchmarkFixture) -> None:
    assert benchmark(from_frames, to_frames(Message(EVENT))).event == EVENT
