"""A report's sections, in the order of its page, from result files of all kinds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.report.content import Block, Section
from bench.report.files import Result
from bench.report.kinds import (
    cameras,
    delivery,
    end_to_end,
    evaluation,
    flops,
    map_cost,
    others,
    peers,
    recipes,
    soak,
    stages,
    startup,
    targets,
)
from bench.report.sources import Machines


class Kind(NamedTuple):
    """Of result files, by the word in "bench"."""

    name: str
    title: str
    told: str
    blocks: Callable[[Result], list[Block]]


KINDS = (
    Kind(
        "end-to-end",
        "From capture to event",
        "The real service, from paced cameras to a subscriber in another process, beside the bare engine.",
        end_to_end.blocks,
    ),
    Kind(
        "stages",
        "Time per stage",
        "Grab, tile, infer, stitch, judge, encode, journal, publish: what is inference, and what is not.",
        stages.blocks,
    ),
    Kind("startup", "Start", "From the start of the process to READY and to the first verdict.", startup.blocks),
    Kind(
        "tune",
        "Settings for this machine",
        "What heatline bench tune tried and chose, and what that gains, measured again in turns.",
        others.tune,
    ),
    Kind(
        "peers",
        "Beside others",
        "The same frames, network, precision and machine, in turns; the engine alone is the measure.",
        peers.blocks,
    ),
    Kind(
        "map-cost",
        "What a map costs",
        "Time of the graph with classifier and map over that of the same classifier alone, in turns.",
        map_cost.blocks,
    ),
    Kind("flops", "Parameters and multiply-adds", "", flops.blocks),
    Kind("micro", "Parts by themselves", "", others.micro),
    Kind(
        "cameras",
        "Cameras",
        "Rates that cameras may have, and how soon a line notices that one is gone and has it back.",
        cameras.blocks,
    ),
    Kind("soak", "Soak", "Whether the service grows, slows down or loses count.", soak.blocks),
    Kind("delivery", "Delivery", "How late events are, beside inspection.", delivery.delivery),
    Kind("chaos", "Faults", "Whether events survive kills, faulty links and a full disk.", delivery.chaos),
    Kind(
        "hostile", "Hostile messages", "What a frame costs under malformed messages and valid ones.", delivery.hostile
    ),
    Kind(
        "recipes",
        "Recipes",
        "What each recipe finds in real data sets, by grouped cross-validation; docs/recipes.md defines the figures.",
        recipes.blocks,
    ),
)
TARGETS = Section("targets", "Targets", "What the figures are to be, and what they are.")
PLANE_AFTER = "peers"
PLANE = Section(
    "plane",
    "Accuracy and latency",
    "How well a model tells tiles apart, and how long it takes for one, classifier and map. Up and left is better. "
    "Accuracy is from heatline evaluate, latency from a bench of the same model.",
)


def sections(results: Sequence[Result]) -> tuple[list[Section], Machines, list[str]]:
    """All that can be shown, the machines that it is of, and a sentence for each file that cannot be shown."""
    found: list[Section] = []
    figures: list[targets.Found] = []
    unusable: list[str] = []
    usable: list[Result] = []
    empty: list[Result] = []
    for kind in KINDS:
        blocks: list[Block] = []
        for result in results:
            if result.kind == kind.name:
                try:
                    made, told = kind.blocks(result), targets.figures(result)
                    figures += told
                    blocks += [replace(block, results=(result,)) for block in made]
                    (usable if made else empty).append(result)
                except (ValueError, LookupError, ArithmeticError) as error:
                    unusable.append(_misfit(result, error))
        if blocks:
            found.append(Section(kind.name, kind.title, kind.told, tuple(blocks)))
    plane, without = _plane(results, usable)
    names = [kind.name for kind in KINDS]
    before = sum(names.index(section.id) <= names.index(PLANE_AFTER) for section in found)
    known = {"evaluation", *names}
    unusable += without
    unusable += [f"{result.file} is a result of {result.kind!r} in which nothing was measured" for result in empty]
    unusable += [
        f"{result.file} is a result of {result.kind!r}, which this heatline does not know; use the one that wrote it"
        for result in results
        if result.kind not in known
    ]
    measured = [*found[:before], *plane, *found[before:]]
    machines = Machines([result for section in measured for block in section.blocks for result in block.results])
    reached = targets.blocks(figures, machines)
    return [*([replace(TARGETS, blocks=tuple(reached))] if reached else []), *measured], machines, unusable


def _plane(results: Sequence[Result], usable: Sequence[Result]) -> tuple[list[Section], list[str]]:
    """The plane of accuracy and latency, and evaluations that are not on it."""
    read: list[tuple[evaluation.Evaluation, Result]] = []
    timed: list[evaluation.Latency] = []
    unusable: list[str] = []
    for result in results:
        try:
            if result.kind == "evaluation":
                read += [(one, result) for one in evaluation.decode(result)]
            elif any(result is one for one in usable):
                timed += evaluation.latencies(result)
        except (ValueError, LookupError, ArithmeticError) as error:
            unusable.append(_misfit(result, error))
    blocks, left_out = evaluation.planes(read, timed)
    unusable += left_out
    return [replace(PLANE, blocks=tuple(blocks))] if blocks else [], unusable


def _misfit(result: Result, error: Exception) -> str:
    return (
        f"{result.file} is a result of {result.kind!r} but does not hold what one holds ({error}); it is damaged or of "
        "an older format: measure it again"
    )
