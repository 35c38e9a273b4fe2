"""`make chaos`: check that no event is lost while processes, links and the disk fail (docs/bench.md)."""

import secrets
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from heatline.edge.bundle import Bundle
from tests.system.chaos.checks import Checked, Events, Stored, check_durable, check_line, check_live
from tests.system.chaos.clients import CLIENTS, Client, ClientPlan, Got, read_record
from tests.system.chaos.run import ChaosRun, Fault, make_plan, stored_in
from tests.system.command import Result, parser, positive, report_line, run


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    seed: int
    seconds: float
    rate_fps: float
    """Of the cameras together."""
    faults: dict[str, int]
    boots: int
    reporting_s: float
    """Time in which the line reported frames; it was down for the rest."""
    events: int
    """In the journal."""
    live_only: int
    """Events that no journal holds and a subscriber received."""
    full_disk_noticed: bool | None
    """Whether events were live only on the full disk; null: no disk was filled."""
    recorded_again_s: float | None
    """From when the disk had room again."""
    clients: dict[str, Checked]
    line: list[str]
    """Broken promises of the line and its journal."""
    ended: list[str]
    """Processes that ended by themselves."""


def measure_chaos(
    bundle: Bundle,
    *,
    seed: int,
    seconds: float,
    rate_fps: float,
    clients: Sequence[ClientPlan] = CLIENTS,
    plan: Sequence[Fault] | None = None,
    keep: Path | None = None,
) -> Chaos:
    """Inject faults, and compare the events of every client with the journal. `seconds`: duration of the faults, by a
    clock that stops while the line is down. `rate_fps`: of the line's two cameras together. `plan`: faults to inject;
    by default drawn from the seed. `keep`: folder to copy all written files to."""
    plan = make_plan(seed, seconds, clients) if plan is None else plan
    report_line(f"seed {seed}: {len(plan)} faults")
    with ExitStack() as at_end:
        run = ChaosRun(at_end, bundle, clients, rate_fps, seconds)
        try:
            through = run.execute(plan)
            stored = stored_in(run.state)
            events, clients_checked = verify(stored, run.reference.headers, run.clients, through)
        finally:
            if keep is not None:
                run.keep(keep)
    return Chaos(
        seed=seed,
        seconds=seconds,
        rate_fps=rate_fps,
        faults=dict(run.faults),
        boots=len(run.reference.boots),
        reporting_s=run.clock_s,
        events=len(stored),
        live_only=len(events.live_only),
        full_disk_noticed=run.noticed_full,
        recorded_again_s=run.recorded_again_s,
        clients=clients_checked,
        line=list(check_line(events)),
        ended=run.ended,
    )


def verify(
    stored: Sequence[Stored], received: Sequence[bytes], clients: Mapping[str, Client], through: int
) -> tuple[Events, dict[str, Checked]]:
    """Check the events of each client. `received`: headers that were received live, besides those of the clients.
    `through`: every durable consumer must have got all events up to this one."""
    subscribers = {name: client for name, client in clients.items() if not client.plan.durable}
    items = {name: list(read_record(client.record)) for name, client in subscribers.items()}
    came = [bytes(item.header) for of_client in items.values() for item in of_client if isinstance(item, Got)]
    events = Events(stored, [*received, *came])
    checked = {}
    for name, client in clients.items():
        topics = client.plan.topics
        if client.plan.durable:
            checked[name] = check_durable(topics, client.headers(), events, through)
        else:
            checked[name] = check_live(topics, items[name], events)
    return events, checked


def faults(found: Chaos) -> list[str]:
    """Return all faults, one sentence each; empty: every promise was kept."""
    wrong = [f"{name}: {one}" for name, client in found.clients.items() for one in client.broken]
    wrong += [*found.line, *found.ended]
    if found.full_disk_noticed is False:
        wrong.append("events were recorded on the full disk, so live-only events were not tested")
    return wrong


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_chaos(
        bundle,
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        seconds=arguments.seconds,
        rate_fps=arguments.rate,
        keep=arguments.keep,
    )
    return found, faults(found)


def main() -> None:
    options = parser("Kill a line and its clients, cut their links and fill its disk: is any event lost?")
    options.add_argument("--seconds", type=positive(float), default=60.0, help="duration while the line runs")
    options.add_argument("--rate", type=positive(float), default=200.0, help="frames a second")
    options.add_argument("--seed", type=int, help="seed of the faults; random by default")
    options.add_argument("--keep", type=Path, help="folder to which all written files are copied")
    sys.exit(run("chaos", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
