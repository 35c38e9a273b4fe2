"""`make chaos`: check that no event is lost while processes, links and the disk fail (docs/bench.md)."""

import secrets
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from heatline.bench.machine import commit
from heatline.edge.bundle import Bundle
from tests.system.chaos.checks import (
    Broken,
    Durable,
    Expected,
    Live,
    check_durable,
    check_frames,
    check_journal,
    check_live,
    check_reports,
    unreceived_events,
)
from tests.system.chaos.clients import CLIENTS, Client, ClientPlan, Got, head_of, read_record
from tests.system.chaos.run import DISK, ChaosRun, Environment, Fault, kills_in, make_plan
from tests.system.command import Result, counts, parser, positive, report_line, run

NEAR_ENOUGH = 0.95
"""Share of the wanted rate that suffices, because each boot of the line takes time to start."""
SHOWN = 20
"""Broken promises that are printed one by one."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The checked promises."""

    durable: dict[str, Durable]
    live: dict[str, Live]
    line: list[Broken]
    """Promises of the line and its journal."""

    @property
    def broken(self) -> list[Broken]:
        """All broken promises."""
        of_clients: list[Durable | Live] = [*self.durable.values(), *self.live.values()]
        return [*self.line, *(one for each in of_clients for one in each.broken)]


class Chaos(Verified, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    commit: str | None
    """Commit of the code; with `-dirty` if files were changed since."""
    seed: int
    seconds: float
    rate_fps: float
    """Of the cameras together."""
    plan: list[Fault]
    kills: dict[str, int]
    faults: dict[str, int]
    boots: int
    reporting_s: float
    """Time in which the line reported frames; it was down for the rest."""
    events: int
    """In the journal."""
    events_per_s: float
    """All events over the time in which the line reported."""
    live_only: int
    """Events that no journal holds and a subscriber received."""
    unreceived: int
    """Events that no journal holds and no subscriber received, as the journal reports them."""
    full_disk_noticed: bool | None
    """Whether events were live only on the full disk; null: no disk was filled."""
    recorded_again_s: float | None
    """From when the disk had room again."""
    drained_s: float
    """From the start of the line without frames until every client had all events."""
    ended: list[str]
    """Processes that ended by themselves."""


def measure_chaos(
    bundle: Bundle,
    *,
    seed: int,
    seconds: float,
    rate_fps: float,
    report_line: Callable[[str], None],
    clients: Sequence[ClientPlan] = CLIENTS,
    plan: Sequence[Fault] | None = None,
    keep: Path | None = None,
) -> Chaos:
    """Inject faults, and compare the events of every client with the journal.

    Args:
        seconds: duration of the faults, by a clock that stops while the line is down.
        rate_fps: of the line's two cameras together.
        plan: faults to inject; by default drawn from the seed.
        keep: folder to copy all written files to.
    Raises:
        BenchError: the line does not start, does not report, or does not stop.
    """
    with Environment(bundle, clients, rate_fps, seconds, report_line) as environment:
        if plan is None:
            plan = make_plan(
                seed,
                seconds,
                killable=[client.name for client in clients if client.killed],
                stoppable=[client.name for client in clients if client.stopped],
                links=list(environment.links),
                has_disk=environment.disk is not None,
            )
        elif environment.disk is None:
            plan = [fault for fault in plan if fault.target != DISK]
        report_line(f"seed {seed}: {len(plan)} faults, {kills_in(plan)} kills among them")
        run = ChaosRun(environment, report_line)
        try:
            expected = run.execute(plan)
            verified = verify(expected, run.clients, run.through)
        finally:
            if keep is not None:
                environment.keep(keep)
    events = sum(map(len, expected.journals.values()))
    return Chaos(
        **msgspec.structs.asdict(verified),
        bundle=bundle.path.name,
        commit=commit(),
        seed=seed,
        seconds=seconds,
        rate_fps=rate_fps,
        plan=list(plan),
        kills=dict(run.kills),
        faults=dict(run.faults),
        boots=len(expected.boots),
        reporting_s=run.clock_s,
        events=events,
        events_per_s=(events + len(expected.unjournalled)) / run.clock_s,
        live_only=len(expected.unjournalled),
        unreceived=sum(unreceived_events(expected).values()),
        full_disk_noticed=run.noticed_full,
        recorded_again_s=run.recorded_again_s,
        drained_s=run.drained_s,
        ended=run.ended,
    )


def verify(expected: Expected, clients: Mapping[str, Client], through: Mapping[str, int]) -> Verified:
    """Check the events of each client, and the line.

    Args:
        through: by journal, its last number when the clients were ended.
    """
    received = [bytes(item.header) for client in clients.values() for item in _got(client, "Subscriber")]
    known = Expected(expected.journals, [*expected.received, *received], expected.boots)
    by_then = known.up_to(through)
    durable: dict[str, Durable] = {}
    live: dict[str, Live] = {}
    for name, client in clients.items():
        topics = client.plan.topics
        if client.plan.durable:
            found = check_durable(name, topics, client.headers(), by_then)
            ages = [age for item in _got(client, "Follower") if (age := _age_s(item)) is not None]
            durable[name] = msgspec.structs.replace(found, longest_lag_s=max(ages, default=None))
        else:
            live[name] = check_live(name, topics, read_record(client.record), known)
    line = [*known.broken, *check_journal(known), *check_frames(known, unreceived_events(known)), *check_reports(known)]
    return Verified(durable=durable, live=live, line=line)


def _got(client: Client, kind: str) -> Iterator[Got]:
    """Yield the events of a client of this kind; none for another kind."""
    if client.plan.kind == kind:
        yield from (item for item in read_record(client.record) if isinstance(item, Got))


def _age_s(item: Got) -> float | None:
    """Return the age of a frame's event at its receipt; None for another event."""
    captured_ns = head_of(item.header).times.get("captured_at_ns")
    return (item.at_ns - captured_ns) / 1e9 if captured_ns else None


def faults(found: Chaos) -> list[str]:
    """Return all faults, one sentence each; empty: every promise was kept."""
    wrong = [*(f"{one.who}: {one.what} ({one.promise})" for one in found.broken), *found.ended]
    if len(wrong) > SHOWN:
        wrong = [*wrong[:SHOWN], f"and {len(wrong) - SHOWN} more"]
    if found.full_disk_noticed is False:
        wrong.append("events were recorded on the full disk, so live-only events were not tested")
    return wrong


def to_facts(found: Chaos) -> dict[str, str]:
    """Describe the result for people, by name and value."""
    slower = "" if found.events_per_s >= NEAR_ENOUGH * found.rate_fps else f", NOT THE REQUESTED {found.rate_fps:g}"
    recorded = (
        f"{found.events} in the journal, {found.live_only} live only, {found.unreceived} received by no subscriber"
    )
    facts = {
        "seed": str(found.seed),
        "kills": counts(found.kills),
        "faults": counts(found.faults),
        "the line": f"{found.boots} boots, reported frames for {found.reporting_s:.1f} s",
        "events": f"{recorded}; {found.events_per_s:.0f} a second{slower}",
        "caught up": f"{found.drained_s:.1f} s after the last frame",
    }
    if found.full_disk_noticed is not None:
        again = "" if found.recorded_again_s is None else f", recording again {found.recorded_again_s:.1f} s after it"
        facts["full disk"] = ("noticed" if found.full_disk_noticed else "NOT NOTICED") + again
    for name, each in found.durable.items():
        lag = "" if each.longest_lag_s is None else f", at most {each.longest_lag_s:.1f} s late"
        facts[name] = f"{each.events} of {each.wanted}, {each.duplicates} came again{lag}"
    for name, one in found.live.items():
        beyond = f", and {one.beyond} live only, of a boot that was killed meanwhile" if one.beyond else ""
        facts[name] = f"{one.events}; {one.missed} missed in {one.gaps} gaps{beyond}"
    facts["promises"] = "all kept" if not faults(found) else f"{len(found.broken) + len(found.ended)} broken"
    return facts


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_chaos(
        bundle,
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        seconds=arguments.seconds,
        rate_fps=arguments.rate,
        report_line=report_line,
        keep=arguments.keep,
    )
    return Result(found, to_facts(found), faults(found))


def main() -> None:
    options = parser("Kill a line and its clients, cut their links and fill its disk: is any event lost?")
    options.add_argument("--seconds", type=positive(float), default=60.0, help="duration while the line runs")
    options.add_argument("--rate", type=positive(float), default=200.0, help="frames a second")
    options.add_argument("--seed", type=int, help="seed of the faults; random by default")
    options.add_argument("--keep", type=Path, help="folder to which all written files are copied")
    sys.exit(run("chaos", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
