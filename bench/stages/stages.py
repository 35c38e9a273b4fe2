"""`heatline bench stages`: the time of each stage of a frame, compared with the whole, at several sizes."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from heatline.bench.engine_process import engine_in
from heatline.bench.machine import file_system
from heatline.bench.spread import Spread, interleaved
from heatline.bench.stages.delivering import grab, journal, publish
from heatline.bench.stages.inspecting import encode, infer, judging, stitch, tile, whole
from heatline.bench.stages.prepared import Prepared, prepare
from heatline.bench.stages.stage import Cost, Recorder, Stage
from heatline.bench.stages.tile_counts import TileCost, measure_tile_counts, spread_of_cost
from heatline.edge.bundle import Bundle
from heatline.edge.inference import Precision

STAGES: Mapping[str, Callable[[Prepared, ExitStack], Stage]] = {
    "grab": grab,
    "tile": lambda prepared, _: tile(prepared),
    "infer": lambda prepared, _: infer(prepared),
    "stitch": lambda prepared, _: stitch(prepared),
    "judge (good)": lambda prepared, _: judging(prepared, defects=False),
    "judge (defects)": lambda prepared, _: judging(prepared, defects=True),
    "encode (no heatmap)": lambda prepared, _: encode(prepared, heatmap=False),
    "encode (heatmap)": lambda prepared, _: encode(prepared, heatmap=True),
    "journal (no heatmap)": lambda prepared, at_end: journal(prepared, at_end, heatmap=False),
    "journal (heatmap)": lambda prepared, at_end: journal(prepared, at_end, heatmap=True),
    "publish (no heatmap)": lambda prepared, at_end: publish(prepared, at_end, heatmap=False),
    "publish (heatmap)": lambda prepared, at_end: publish(prepared, at_end, heatmap=True),
}
"""Functions by name and variant that make a stage of a prepared frame; what they open is closed by the `ExitStack`."""
ROUNDS, FRAMES = 15, 8
"""Interleaved rounds of all stages, and frames of a stage in a round."""
STACKED = (
    *("grab", "tile", "infer", "stitch", "judge (defects)"),
    *("encode (heatmap)", "journal (heatmap)", "publish (heatmap)"),
)
"""The stages of one frame with defects, from the camera to a subscriber."""
WHOLE = ("good", "defects")
"""Variants of a frame that the inspector gets."""
INSPECTED = ("tile", "infer", "stitch", "judge")
"""The stages of the inspector."""


class StageCost(Cost, frozen=True, kw_only=True):
    """Cost of one variant of a stage at one size."""

    size: str
    """Width and height of the frame, px."""
    tiles: int
    stage: str
    variant: str
    """Empty if the stage has one variant."""
    stacked: bool
    """Whether a frame with defects passes it, from the camera to a subscriber."""


class WholeInspection(Cost, frozen=True, kw_only=True):
    """Cost of a whole inspection, which consists of tiling, inferring, stitching and judging."""

    size: str
    tiles: int
    variant: str
    regions: int
    stages_ms: float
    """Sum of the four stages."""
    hand_offs_ms: Spread
    """Time of the inspection beyond its stages, by rounds; negative where the stages overlap."""
    hand_offs_cpu_ms: float
    """Processor time beyond that of the stages, of medians."""


class StagesBench(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    model: str
    precision: Precision
    engine: str
    batch: int
    rounds: int
    frames: int
    """Per stage and round."""
    journal_on: str
    """The journal's file system."""
    rows: list[StageCost]
    whole: list[WholeInspection]
    cost_per_tile: list[TileCost]
    cost_per_tile_spread: float | None
    """By how much the most expensive tile costs more than the cheapest, as a share; None: fewer than two counts."""


def measure_stages(
    bundle: Bundle,
    precision: Precision,
    *,
    sizes: Sequence[tuple[int, int]],
    tile_counts: Sequence[int],
    rounds: int = ROUNDS,
    frames: int = FRAMES,
    report_line: Callable[[str], None],
    done: Callable[[], None],
) -> StagesBench:
    """Time all stages in interleaved rounds, one size after the other, then frames of several numbers of tiles.

    Args:
        sizes: of frames, height and width, px.
        rounds: of all stages.
        frames: per stage and round.
        report_line: takes a line of progress.
        done: called after each stage's round, `steps` times in all.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: it cannot be used in that precision; or a stage did not do its work.
    """
    verified = engine_in(bundle, precision)
    rows: list[StageCost] = []
    inspections: list[WholeInspection] = []
    for hw in dict.fromkeys(sizes):
        prepared = prepare(bundle, verified, hw)
        report_line(f"{prepared.size}, {len(prepared.grid)} tiles: {rounds} rounds of {frames} frames of each stage")
        with ExitStack() as at_end:
            of_stages = {name: Recorder(make(prepared, at_end), done) for name, make in STAGES.items()}
            for variant in WHOLE:
                inspection = whole(prepared, defects=variant == "defects")
                of_stages[str(inspection)] = Recorder(inspection, done)
            for recorder in of_stages.values():
                recorder.settle()
            for order in interleaved(of_stages, rounds):
                for name in order:
                    of_stages[name](frames)
        costs = {name: recorder.cost() for name, recorder in of_stages.items()}
        rows += [_stage_cost(prepared, of_stages[name].stage, costs[name]) for name in STAGES]
        inspections += [_whole_inspection(prepared, of_stages, costs, variant) for variant in WHOLE]
    if tile_counts:
        report_line(f"frames of {', '.join(map(str, tile_counts))} tiles: {_rounds_of_tiles(rounds)} rounds")
    cost_per_tile = measure_tile_counts(bundle, verified, tile_counts, _rounds_of_tiles(rounds), done)
    return StagesBench(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        engine=verified.engine.name,
        batch=verified.engine.batch,
        rounds=rounds,
        frames=frames,
        journal_on=file_system(Path(tempfile.gettempdir())),
        rows=rows,
        whole=inspections,
        cost_per_tile=cost_per_tile,
        cost_per_tile_spread=spread_of_cost(cost_per_tile),
    )


def steps(sizes: Sequence[tuple[int, int]], tile_counts: Sequence[int], rounds: int = ROUNDS) -> int:
    """Return the number of rounds of all stages, with the warm-up rounds."""
    of_stages = len(dict.fromkeys(sizes)) * (len(STAGES) + len(WHOLE)) * (rounds + 1)
    return of_stages + len(dict.fromkeys(tile_counts)) * 2 * (_rounds_of_tiles(rounds) + 1)


def _rounds_of_tiles(rounds: int) -> int:
    """Return half as many: frames of many tiles take long, and their times differ less."""
    return -(-rounds // 2)


def _stage_cost(prepared: Prepared, stage: Stage, cost: Cost) -> StageCost:
    return StageCost(
        size=prepared.size,
        tiles=len(prepared.grid),
        stage=stage.name,
        variant=stage.variant,
        stacked=str(stage) in STACKED,
        **msgspec.structs.asdict(cost),
    )


def _whole_inspection(
    prepared: Prepared, of_stages: Mapping[str, Recorder], costs: Mapping[str, Cost], variant: str
) -> WholeInspection:
    name, parts = f"whole ({variant})", [f"judge ({variant})" if part == "judge" else part for part in INSPECTED]
    setup, cost = prepared.good if variant == "good" else prepared.defective, costs[name]
    together = [sum(of_round) for of_round in zip(*(of_stages[part].medians_ms for part in parts), strict=True)]
    return WholeInspection(
        size=prepared.size,
        tiles=len(prepared.grid),
        variant=variant,
        regions=len(prepared.judgement(setup).regions),
        stages_ms=sum(costs[part].ms.median for part in parts),
        hand_offs_ms=Spread.of([one - other for one, other in zip(of_stages[name].medians_ms, together, strict=True)]),
        hand_offs_cpu_ms=cost.cpu_ms - sum(costs[part].cpu_ms for part in parts),
        **msgspec.structs.asdict(cost),
    )


# For people.


def to_facts(found: StagesBench) -> dict[str, str]:
    """Describe the results for people, by name and value."""
    facts = {
        "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.frames} frames",
        "engine": f"{found.engine} in {found.precision}, batches of {found.batch}; journals on {found.journal_on}",
    }
    for row in found.rows:
        name = f"{row.stage} ({row.variant})" if row.variant else row.stage
        facts[f"{row.size}: {name}"] = _describe(row)
    for one in found.whole:
        facts[f"{one.size}: whole ({one.variant})"] = (
            f"{_describe(one)}; its stages {one.stages_ms:.2f} ms, hand-offs {one.hand_offs_ms:.2f} ms; "
            f"{one.regions} regions"
        )
    for cost in found.cost_per_tile:
        facts[f"{cost.tiles} tiles a frame"] = (
            f"{cost.whole_ms_per_tile:.3f} ms a tile, {cost.over_bare:.3f} of the engine alone"
        )
    if found.cost_per_tile_spread is not None:
        facts["most expensive tile over the cheapest"] = f"{100 * found.cost_per_tile_spread:+.1f} %"
    return facts


def _describe(cost: Cost) -> str:
    return f"{cost.ms:.3f} ms, p99 {cost.p99_ms:.3f}; CPU {cost.cpu_ms:.3f} ms"
