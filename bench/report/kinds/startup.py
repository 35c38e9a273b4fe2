"""Where a start's time goes."""

from bench.report.content import Block, Column, Plot, shown, spread, table
from bench.report.files import Result
from bench.report.plots import Stack, stacks
from bench.startup.startup import IN_WORDS, StartUp
from bench.targets import READY_S

MOST_IMPORTS = 8


def blocks(result: Result) -> list[Block]:
    """One for all conditions of a measurement."""
    return [_block(one) for one in result.decoded(StartUp)]


def _block(found: StartUp) -> Block:
    height, width = found.frame_hw
    told = [
        f"From the start of the process, one drawn camera of {width}x{height} px; median (lowest to highest) of "
        f"{found.repetitions} starts. READY with a model cache is to be had in {READY_S:g} s."
    ]
    if found.why_not_cold is not None:
        told.append(f"Cold is not measured: {found.why_not_cold}.")
    phases = tuple(dict.fromkeys(name for starts in found.conditions.values() for name in starts.phases_s))
    drawn = [
        Stack(condition, [(name, taken.median) for name, taken in starts.phases_s.items()])
        for condition, starts in found.conditions.items()
    ]
    columns = (
        *(Column("start", True), Column("with", True)),
        *("READY, s", "of warm", "processor time, s", "first verdict, s"),
    )
    rows = [
        (
            *(condition, IN_WORDS[condition]),
            *map(spread, (starts.ready_s, starts.ready_to_warm, starts.cpu_ready_s, starts.first_verdict_s)),
        )
        for condition, starts in found.conditions.items()
    ]
    of_phases = [
        (name, *(spread(starts.phases_s.get(name)) for starts in found.conditions.values())) for name in phases
    ]
    imports = [(name, shown(ms)) for name, ms in list(found.imports_ms.items())[:MOST_IMPORTS]]
    plots = (Plot(stacks(drawn, "Phases of a start", "s until the first verdict", phases)),) if drawn else ()
    tables = (
        table(columns, rows),
        table((Column("phase, s", True), *found.conditions), of_phases, "Phases"),
        table((Column("library", True), "ms"), imports, "Imports, the longest first"),
    )
    return Block(f"{found.model} in {found.precision}", tuple(told), plots, tables)
