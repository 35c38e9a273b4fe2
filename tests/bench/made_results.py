"""Made-up result files of every kind of bench, and events, with figures that can be computed by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from heatline.bench.bare_engine import Settings
from heatline.bench.end_to_end.beside import BOTH, PLAIN, Beside, BesideService
from heatline.bench.end_to_end.end_to_end import EndToEnd
from heatline.bench.end_to_end.highest import Highest
from heatline.bench.end_to_end.idle import Idle
from heatline.bench.end_to_end.line import ReceivedVerdict
from heatline.bench.end_to_end.saturated import Processor, Saturated
from heatline.bench.end_to_end.window import Window
from heatline.bench.flops import Flops, FlopsBench
from heatline.bench.machine import Machine
from heatline.bench.map_cost.plan import Cost as MapCost
from heatline.bench.map_cost.plan import MapCosts, Row
from heatline.bench.peers.peers import PeersBench, SystemSpeed
from heatline.bench.peers.systems import ENGINE, OURS, SystemName
from heatline.bench.recipes.rows import FoldFigures, RecipeResult
from heatline.bench.result_file import keep, new_report
from heatline.bench.spread import Latency, Spread
from heatline.bench.stages.stages import StageCost, StagesBench, WholeInspection
from heatline.bench.stages.tile_counts import TileCost
from heatline.bench.startup import Starts, StartUp
from heatline.edge.wire.events import BundleName, Times, VerdictEvent

MODEL = "mobilenetv3_large_d"


def spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.15 * median)


def a_machine(**changed: Any) -> dict[str, object]:
    """Describe a line PC with bf16, with some values changed."""
    one = Machine(
        processor="Example CPU 9", extensions=["avx2", "avx512f", "avx512_bf16"], flags="fpu avx2 avx512f avx512_bf16",
        governor="performance", cores=2, affinity=[0, 1], cores_in_all=8, memory_mb=16_384, load=[0.25, 0.5, 0.75],
        kernel="6.12.0", is_virtual=False, python="3.11.7", versions={"openvino": "2026.4.1"}, commit="0123456789ab",
        at_utc="2026-11-26T06:32:10Z",
    )  # fmt: skip
    return msgspec.structs.asdict(msgspec.structs.replace(one, **changed))


def end_to_end() -> EndToEnd:
    window = Window(
        rate_fps=11.6, seconds=300.0, frames=3480, came_fps=11.6, inspected=100, dropped={}, failed={}, unreported=0,
        late=0, late_after_ms=172.0, latency=Latency(p50=32.5, p95=43.5, p99=44.5, most=44.75), latency_growth_ms=0.5,
        camera_late_p99_ms=0.375, jitter_periods=0.141, verdicts={"GOOD": 88, "DEFECT": 12},
        cpu_cores={"service": 1.61, "cameras": 0.04}, pss_mb=314.0, most_mb=402.0, pictures_mb=120.5,
    )  # fmt: skip
    held = msgspec.structs.replace(window, rate_fps=14.5, came_fps=14.5)
    lost = "lost: dropped.overload 1"
    lossy = msgspec.structs.replace(held, rate_fps=15.5, dropped={"overload": 1}, not_kept_up=lost)
    return EndToEnd(
        bundle="m.bundle", model=MODEL, method="cam", precision="bf16", frame_hw=(2048, 2448), cameras=1,
        waiting_frames=4, tiles_per_frame=120, pictures=8, defective=0.125,
        engine_settings={}, engine_alone=Settings(2, 1), engine_alone_tiles_per_s=1880.0,
        engine_alone_tried=[(Settings(2, 1), 1880.0)],
        saturated=Saturated(
            seconds=6.0, service_tiles_per_s=spread(1820.0), service_frames_per_s=spread(15.2),
            engine_tiles_per_s=spread(1880.0), service_over_engine=0.968, service_over_engine_spread=spread(0.968),
            cpu_ms_per_frame={"service": spread(130.0), "cameras": spread(1.75)},
            processor=Processor(inference_ms=126.0, rest_ms={"infer": 3.125, "others": 0.09375}, rest_share=0.0524),
        ),
        idle=Idle(
            rate_fps=6.0, engine=Settings(2, 4), frames=20, lost=0, frame_ms=spread(68.5), engine_ms=spread(61.5),
            extra_ms=spread(7.0), frame_p99_ms=80.0, engine_p99_ms=70.0,
        ),
        beside=Beside(
            seconds=10.0, pictures=20, defective=0.05, good_every=4, viewers=2,
            services=[
                BesideService(
                    name=name, frames_per_s=spread(15.2), over_plain=ratio, cpu_ms_per_frame={"service": spread(130.0)},
                    frames=760, stored=stored, skipped=0, shown=2 * stored, turns=[],
                )
                for name, ratio, stored in ((PLAIN, None, 0), (BOTH, spread(0.984), 190))
            ],
        ),
        highest=Highest(
            rate_fps=14.5, share_of_bare=0.926, limited_by="lost: dropped.overload 1", held=[held], tried=[held, lossy]
        ),
        window=window,
    )  # fmt: skip


COST: dict[str, Any] = {"p99_ms": 3.5, "cpu_ms": 1.75}


def stages() -> StagesBench:
    def per_tile(tiles: int, whole: float, bare: float) -> TileCost:
        return TileCost(
            tiles=tiles, size="a square", frames=2, whole_ms_per_tile=spread(whole), bare_ms_per_tile=spread(bare),
            over_bare=spread(1.06),
        )  # fmt: skip

    return StagesBench(
        bundle="m.bundle", model=MODEL, precision="bf16", engine="openvino", batch=1, rounds=15, frames=8,
        journal_on="ext4",
        rows=[
            StageCost(
                size=size, tiles=tiles, stage=stage, variant="", stacked=True, ms=spread(ms * tiles / 120), **COST
            )
            for size, tiles in {"640x480": 9, "2448x2048": 120}.items()
            for stage, ms in {"grab": 0.625, "infer": 61.5, "judge": 2.125}.items()
        ],
        whole=[
            WholeInspection(
                size="2448x2048", tiles=120, variant="defects", regions=12, stages_ms=65.625, ms=spread(67.0),
                hand_offs_ms=spread(1.375), hand_offs_cpu_ms=0.875, **COST,
            )
        ],
        cost_per_tile=[per_tile(9, 0.551, 0.519), per_tile(120, 0.527, 0.513), per_tile(480, 0.594, 0.512)],
        cost_per_tile_spread=0.127,
    )  # fmt: skip


def startup() -> StartUp:
    def starts(ready_s: float) -> Starts:
        phases = {"Python and imports": 0.55, "compiling": ready_s - 0.55, "subscriber and first frame": 0.25}
        return Starts(
            ready_s=spread(ready_s), first_verdict_s=spread(ready_s + 0.25), cpu_ready_s=spread(0.75),
            phases_s={name: spread(taken) for name, taken in phases.items()}, ready_to_warm=spread(0.6), starts=[],
        )  # fmt: skip

    return StartUp(
        bundle="m.bundle", model=MODEL, precision="bf16", frame_hw=(2048, 2448), bytes_of_bundle=8_000_000,
        repetitions=10, conditions={"warm": starts(2.35), "cached": starts(1.45)}, why_not_cold="it requires root",
    )  # fmt: skip


SHARES: Mapping[SystemName, float] = {ENGINE: 1.0, OURS: 0.97, "anomalib": 0.31, "model-api": 0.44, "grad-cam": 0.08}


def peers() -> PeersBench:
    return PeersBench(
        model=MODEL, precision="f32", frame_hw=(2048, 2448), tiles_per_frame=120, frames=4, rounds=7, threads=2,
        systems=[
            SystemSpeed(
                name=name, what="made of several parts", libraries={}, settings={"batch": 8}, tried=[],
                heatmap_hw=None if name == ENGINE else (128, 153), frames_per_s=spread(6.25 * share),
                tiles_per_s=spread(750 * share), to_engine=share, to_engine_spread=spread(share),
                ours_to_it=SHARES[OURS] / share, ours_to_it_spread=spread(SHARES[OURS] / share),
                ms_per_frame={"tile": 3.25}, logits_off=0.00125,
            )
            for name, share in SHARES.items()
        ],
        others_cpu=0.0125,
    )  # fmt: skip


def map_costs(model: str = MODEL, ms: float = 1.25) -> MapCosts:
    def row(engine: Any, ratio: float | None) -> Row:
        cost = None if ratio is None else MapCost(
            bare="pooling", tiles_per_round=48, ratio=ratio, ratio_spread=spread(ratio),
            map_ms_per_tile=spread(ms * ratio), bare_ms_per_tile=spread(ms), map_tiles_per_s=1e3 / ms / ratio,
        )  # fmt: skip
        return Row(
            model=model, method="cam", fusion=None, discard_ratio=None, engine=engine, precision="f32",
            batch=1, tile_px=224, threads=2, rounds=15, cost=cost,
            not_done=None if cost else "it is not installed", at_utc="2026-11-26T06:32:10Z", load=[0.25, 0.5, 0.75],
        )  # fmt: skip

    return MapCosts(rows=[row("openvino", 1.0), row("onnxruntime", 1.5), row("onnxruntime", None)])


def flops() -> FlopsBench:
    system = Flops(
        model=MODEL, timm="mobilenetv3_large_100", map_hw=(14, 14), parameters=790_000, macs=152_100_000, gflops=0.3042,
        macs_with_map=152_150_000, gflops_with_map=0.3043, method="cam", study_gflops=0.22,
    )  # fmt: skip
    return FlopsBench(tile_px=224, units="MACs are multiply-adds.", study="Table 1.1 prints them.", systems=[system])


def recipe() -> RecipeResult:
    fold = FoldFigures(
        seed=0, fold=0, tile_ap=0.5, tile_ap_clear=0.625, picture_auroc=None, pixel_ap=0.25, study_f1=0.375,
        pointing=0.75, pointing_near=1.0, hit=0.5, rejected=0.125, frames=9, good_frames=4, score_threshold=0.5,
        evidence_threshold=0.25, hit_by_class={"crack": (1, 2)},
    )  # fmt: skip
    other = msgspec.structs.replace(fold, fold=1, hit=1.0)
    return RecipeResult(set="s", recipe="heatline", overrides=["a=1"], truth="masks", folds=[fold, other], trainings=[])


MADE = {
    "end-to-end": end_to_end(),
    "stages": stages(),
    "startup": startup(),
    "peers": peers(),
    "map-cost": map_costs(),
    "flops": flops(),
    "recipes": recipe(),
}


def evaluation(model: str, average_precision: float | None, *groups: str, family: str = "cnn") -> bytes:
    """Return the parts of an `evaluation.json` that the report reads, and those by which it recognises the file."""
    tile = {"average_precision": average_precision, "auroc": 0.9375}
    subject = {"name": model, "model": model, "family": family, "method": "cam", "data": "boards", "groups": groups}
    truths = [{"truth": "masks", "figures": {"tile": tile}}]
    return msgspec.json.encode({"subject": subject, "calibration": {}, "truths": truths, "schema": 1})


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
    """Write one result file of each kind, and an evaluation."""
    for kind in MADE:
        write(folder, kind)
    (folder / "evaluation.json").write_bytes(evaluation(MODEL, 0.875, "a"))
    return folder
