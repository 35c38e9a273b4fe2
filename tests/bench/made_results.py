"""Made-up result files of every kind of bench, and events, with figures that can be computed by hand."""

from pathlib import Path
from typing import Any

import msgspec

from heatline.bench.end_to_end.end_to_end import EndToEnd, Highest
from heatline.bench.end_to_end.line import ReceivedVerdict
from heatline.bench.end_to_end.rates import Window
from heatline.bench.end_to_end.turns import Beside, Idle, Saturated
from heatline.bench.engines import Settings
from heatline.bench.flops import Flops, FlopsBench
from heatline.bench.machine import Machine
from heatline.bench.map_cost import MapCosts, Row
from heatline.bench.peers.peers import ENGINE, OURS, PeersBench, SystemSpeed
from heatline.bench.result_file import keep, new_report
from heatline.bench.spread import Latency, Spread
from heatline.bench.stages import StageCost, StagesBench
from heatline.bench.startup import Starts, StartUp
from heatline.edge.wire.events import BundleName, Times, VerdictEvent

MODEL = "mobilenetv3_large_d"


def spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.15 * median)


def a_machine(**changed: Any) -> dict[str, object]:
    """Describe a line PC with bf16, with some values changed."""
    one = Machine(
        processor="Example CPU 9", extensions=["avx2", "avx512f", "avx512_bf16"], governor="performance", cores=2,
        cpu_quota=None, memory_mb=16_384, load=[0.25, 0.5, 0.75], kernel="6.12.0", is_virtual=False, python="3.11.7",
        versions={"openvino": "2026.4.1"}, commit="0123456789ab", at_utc="2026-11-26T06:32:10Z",
    )  # fmt: skip
    return msgspec.structs.asdict(msgspec.structs.replace(one, **changed))


def end_to_end() -> EndToEnd:
    window = Window(
        rate_fps=11.6, seconds=300.0, not_kept_up=None, frames=3480, inspected=100, dropped={}, failed={}, unreported=0,
        late=0, latency=Latency(p50=32.5, p90=42.5, p95=43.5, p99=44.5, most=44.75), jitter_periods=0.141,
        cpu_cores={"service": 1.61, "cameras": 0.04}, pss_mb=314.0,
    )  # fmt: skip
    return EndToEnd(
        bundle="m.bundle", model=MODEL, method="cam", precision="bf16", frame_hw=(2048, 2448), cameras=1,
        tiles_per_frame=120, pictures=8, defective=0.125, engine_settings={}, engine_alone=Settings(2, 1),
        engine_alone_tiles_per_s=1880.0,
        saturated=Saturated(
            service_tiles_per_s=spread(1820.0), service_frames_per_s=spread(15.2),
            engine_tiles_per_s=spread(1880.0), service_over_engine=0.968, service_over_engine_spread=spread(0.968),
            cpu_ms_per_frame={"service": spread(130.0), "cameras": spread(1.75)},
        ),
        idle=Idle(
            engine=Settings(2, 4), lost=0, frame_ms=spread(68.5), engine_ms=spread(61.5),
            extra_ms=spread(7.0), frame_p99_ms=80.0, engine_p99_ms=70.0,
        ),
        beside=Beside(
            frames_per_s=spread(15.0), plain_frames_per_s=spread(15.2),
            over_plain=spread(0.984), cpu_ms_per_frame={"service": spread(130.0)}, stored=190, skipped=0, shown=380,
        ),
        highest=Highest(rate_fps=14.5, share_of_bare=0.926, limited_by="lost: dropped.overload 1", tried=[window]),
        window=window,
    )  # fmt: skip


def stages() -> StagesBench:
    return StagesBench(
        bundle="m.bundle", model=MODEL, precision="bf16", engine="openvino", batch=1, rounds=15, frames=8,
        journal_on="ext4",
        rows=[
            StageCost(size=size, tiles=tiles, stage=stage, ms=spread(ms * tiles / 120), p99_ms=3.5)
            for size, tiles in {"640x480": 9, "2448x2048": 120}.items()
            for stage, ms in {"grab": 0.625, "infer": 61.5, "judge": 2.125}.items()
        ],
    )  # fmt: skip


def startup() -> StartUp:
    def starts(condition: str, ready_s: float) -> Starts:
        return Starts(
            condition=condition, ready_s=spread(ready_s), first_verdict_s=spread(2.5), cpu_ready_s=spread(1.2),
            phases_s={"Python and imports": spread(0.5), "compiling": spread(1.0)},
        )  # fmt: skip

    return StartUp(
        bundle="m.bundle", model=MODEL, precision="bf16", frame_hw=(2048, 2448), repetitions=10,
        conditions=[starts("warm", 2.35), starts("cached", 1.45)],
    )  # fmt: skip


SHARES = {ENGINE: 1.0, OURS: 0.97, "anomalib": 0.31, "grad-cam": 0.08}


def peers() -> PeersBench:
    return PeersBench(
        model=MODEL, precision="f32", frame_hw=(2048, 2448), tiles_per_frame=120, frames=4, rounds=7, threads=2,
        systems=[
            SystemSpeed(
                name=name, what="made of several parts", libraries={}, settings={"batch": 8},
                frames_per_s=spread(6.25 * share), to_engine=spread(share), ours_to_it=spread(SHARES[OURS] / share),
                logits_off=0.00125,
            )
            for name, share in SHARES.items()
        ],
    )  # fmt: skip


def map_costs() -> MapCosts:
    row = Row(
        model=MODEL, method="cam", fusion=None, discard_ratio=None, precision="f32", batch=1, ratio=spread(1.0),
        map_ms_per_tile=spread(1.25), bare_ms_per_tile=spread(1.25), bare="pooling",
    )  # fmt: skip
    not_done = msgspec.structs.replace(row, precision="bf16", ratio=None, not_done="it has no bf16")
    return MapCosts(rows=[row, not_done])


def flops() -> FlopsBench:
    system = Flops(
        model=MODEL, timm="mobilenetv3_large_100", map_hw=(14, 14), parameters=790_000, macs=152_100_000, gflops=0.3042,
        macs_with_map=152_150_000, gflops_with_map=0.3043, method="cam", study_gflops=0.22,
    )  # fmt: skip
    return FlopsBench(tile_px=224, systems=[system])


MADE: dict[str, msgspec.Struct] = {
    "end-to-end": end_to_end(),
    "stages": stages(),
    "startup": startup(),
    "peers": peers(),
    "map-cost": map_costs(),
    "flops": flops(),
}


def verdict(number: int, captured_ms: float = 0.0, reason: str | None = None, **changed: Any) -> VerdictEvent:
    """Return the event of a frame; with a reason, it is NO_VERDICT."""
    event = VerdictEvent(
        boot_id="a", seq=number, camera="a", frame_id=number, frame_number=number, reason=reason, score_threshold=0.0,
        times=Times(captured_at_ns=0, captured_monotonic_ns=round(captured_ms * 1e6)), evidence_threshold=0.0,
        verdict="GOOD" if reason is None else "NO_VERDICT", precision="f32", latency_ms=1.0, acting=True,
        previous_seq=0, bundle=BundleName(name="b", version="1", digest="0" * 64), frame_score=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(event, **changed)


def received_verdict(
    number: int, due_ms: float, late_ms: float, ms: float, reason: str | None = None, **changed: Any
) -> ReceivedVerdict:
    """Return a frame that was due at `due_ms`, stamped `late_ms` later and received `ms` after it was due."""
    return ReceivedVerdict(verdict(number, due_ms + late_ms, reason, **changed), round((due_ms + ms) * 1e6))


def write(folder: Path, kind: str, found: msgspec.Struct | None = None, **of_machine: Any) -> Path:
    """Write a result file of this kind, by default that of `MADE`, from `a_machine` with some values changed."""
    path = folder / f"{kind}.json"
    keep(path, new_report(kind, a_machine(**of_machine), MADE[kind] if found is None else found))
    return path


def write_all(folder: Path) -> Path:
    """Write one result file of each kind."""
    for kind in MADE:
        write(folder, kind)
    return folder
