"""What is told of delivery: faults of every kind, lateness, hostile messages. What the commands print, as tables."""

from bench.chaos import chaos as chaos_bench
from bench.delivery import hostile as hostile_bench
from bench.delivery import rate as delivery_bench
from bench.report.content import Block, facts
from bench.report.files import Result


def chaos(result: Result) -> list[Block]:
    """Kills, faulty links and a full disk."""
    return [
        Block(f"{found.seconds:g} s at {found.rate_fps:g} frames/s", tables=(facts(chaos_bench.to_facts(found)),))
        for found in result.decoded(chaos_bench.Chaos)
    ]


def delivery(result: Result) -> list[Block]:
    """How late events are."""
    told = "Medians of windows with a journal, and of windows without."
    return [
        Block(f"{found.model} in {found.precision}", (told,), tables=(facts(delivery_bench.to_facts(found)),))
        for found in result.decoded(delivery_bench.Delivery)
    ]


def hostile(result: Result) -> list[Block]:
    """What malformed messages cost."""
    return [
        Block(f"{found.bundle} in {found.precision}", tables=(facts(hostile_bench.to_facts(found)),))
        for found in result.decoded(hostile_bench.Hostile)
    ]
