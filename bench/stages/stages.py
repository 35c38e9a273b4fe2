"""`heatline bench stages`: each stage of a frame's way by itself, beside the whole way, at several sizes."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.engine_process import engine_in
from bench.machine import file_system
from bench.spread import Spread, interleaved
from bench.stages.delivering import grab, journal, publish
from bench.stages.inspecting import encode, infer, judging, stitch, tile, whole
from bench.stages.prepared import Prepared, prepare
from bench.stages.stage import Cost, Recorder, Stage
from bench.stages.tile_counts import TileCost, measure_tile_counts, spread_of_cost
from edge.bundle import Bundle
from edge.inference import Precision

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
"""By name and variant; each is made of what was prepared, and says what is to be closed when it is over."""
ROUNDS, FRAMES = 15, 8
"""Of all stages in turns, and of each stage in a round."""
STACKED = (
    *("grab", "tile", "infer", "stitch", "judge (defects)"),
    *("encode (heatmap)", "journal (heatmap)", "publish (heatmap)"),
)
"""Those that one frame with defects goes through, from the camera to a subscriber."""
WHOLE = ("good", "defects")
"""The ways of a frame through the inspector."""
INSPECTED = ("tile", "infer", "stitch", "judge")
"""The stages that these consist of."""


class StageCost(Cost, frozen=True, kw_only=True):
    """One way to do one stage at one size."""

    size: str
    """Of the frame, px: width and height."""
    tiles: int
    stage: str
    variant: str
    """Which way; empty where there is but one."""
    stacked: bool
    """Whether it is of the way of one frame with defects, from the camera to a subscriber."""


class WholeWay(Cost, frozen=True, kw_only=True):
    """A frame's whole way through the inspector, which tiling, inferring, stitching and judging make up."""

    size: str
    tiles: int
    variant: str
    regions: int
    stages_ms: float
    """Of the four stages together."""
    hand_offs_ms: Spread
    """What the way takes beyond them, round by round; less than nothing where they overlap."""
    hand_offs_cpu_ms: float
    """The same of the processor time, of medians."""


class StagesBench(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

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
    whole: list[WholeWay]
    cost_per_tile: list[TileCost]
    cost_per_tile_spread: float | None
    """By how much the dearest tile costs more than the cheapest, as a share; None where fewer than two counts were."""


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
    """Time the stages in turns, one size after the other, then frames of several numbers of tiles.

    Args:
        sizes: of frames, height and width, px.
        rounds: of all stages in turns.
        frames: per stage and round.
        report_line: takes a line of progress.
        done: called after each stage's round, `steps` times in all.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor in that precision; or a stage did not do its work.
    """
    verified = engine_in(bundle, precision)
    rows: list[StageCost] = []
    ways: list[WholeWay] = []
    for hw in dict.fromkeys(sizes):
        prepared = prepare(bundle, verified, hw)
        report_line(f"{prepared.size}, {len(prepared.grid)} tiles: {rounds} rounds of {frames} frames of each stage")
        with ExitStack() as at_end:
            of_stages = {name: Recorder(make(prepared, at_end), done) for name, make in STAGES.items()}
            for variant in WHOLE:
                way = whole(prepared, defects=variant == "defects")
                of_stages[str(way)] = Recorder(way, done)
            for recorder in of_stages.values():
                recorder.settle()
            for order in interleaved(of_stages, rounds):
                for name in order:
                    of_stages[name](frames)
        costs = {name: recorder.cost() for name, recorder in of_stages.items()}
        rows += [_stage_cost(prepared, of_stages[name].stage, costs[name]) for name in STAGES]
        ways += [_whole_way(prepared, of_stages, costs, variant) for variant in WHOLE]
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
        whole=ways,
        cost_per_tile=cost_per_tile,
        cost_per_tile_spread=spread_of_cost(cost_per_tile),
    )


def steps(sizes: Sequence[tuple[int, int]], tile_counts: Sequence[int], rounds: int = ROUNDS) -> int:
    """How many rounds of a stage there are in all, with those that let things settle."""
    of_stages = len(dict.fromkeys(sizes)) * (len(STAGES) + len(WHOLE)) * (rounds + 1)
    return of_stages + len(dict.fromkeys(tile_counts)) * 2 * (_rounds_of_tiles(rounds) + 1)


def _rounds_of_tiles(rounds: int) -> int:
    """Half as many: a round of frames of many tiles takes long, and tells so much the more."""
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


def _whole_way(
    prepared: Prepared, of_stages: Mapping[str, Recorder], costs: Mapping[str, Cost], variant: str
) -> WholeWay:
    name, parts = f"whole ({variant})", [f"judge ({variant})" if part == "judge" else part for part in INSPECTED]
    setup, cost = prepared.good if variant == "good" else prepared.defective, costs[name]
    together = [sum(of_round) for of_round in zip(*(of_stages[part].medians_ms for part in parts), strict=True)]
    return WholeWay(
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
    """Names and values."""
    facts = {
        "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.frames} frames",
        "engine": f"{found.engine} in {found.precision}, batches of {found.batch}; journals on {found.journal_on}",
    }
    for row in found.rows:
        name = f"{row.stage} ({row.variant})" if row.variant else row.stage
        facts[f"{row.size}: {name}"] = _in_words(row)
    for way in found.whole:
        facts[f"{way.size}: whole ({way.variant})"] = (
            f"{_in_words(way)}; its stages {way.stages_ms:.2f} ms, hand-offs {way.hand_offs_ms:.2f} ms; "
            f"{way.regions} regions"
        )
    for cost in found.cost_per_tile:
        facts[f"{cost.tiles} tiles a frame"] = (
            f"{cost.whole_ms_per_tile:.3f} ms a tile, {cost.over_bare:.3f} of the engine's by itself"
        )
    if found.cost_per_tile_spread is not None:
        facts["dearest tile over the cheapest"] = f"{found.cost_per_tile_spread:+.1%}"
    return facts


def _in_words(cost: Cost) -> str:
    return f"{cost.ms:.3f} ms, p99 {cost.p99_ms:.3f}; CPU {cost.cpu_ms:.3f} ms"
