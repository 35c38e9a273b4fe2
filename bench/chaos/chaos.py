"""`heatline bench chaos`: whether delivery keeps its promises while processes, links and the disk fail."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bench.chaos.cast import CAST, Part, Player, documented_client
from bench.chaos.lag import longest_catch_up_s, longest_lag_s
from bench.chaos.plan import DISK, Fault, kills_in, make_plan
from bench.chaos.records import Got, head_of, item_of, read_record, whole_lines
from bench.chaos.run import Seen, play
from bench.chaos.stage import Stage
from bench.chaos.truth import Broken, Truth
from bench.chaos.verify_clients import check_bare, check_durable, check_live
from bench.chaos.verify_line import check_frames, check_journal, check_told, unheard_events
from bench.machine import commit
from edge.bundle import Bundle
from edge.inference import Precision

NEAR_ENOUGH = 0.95
"""Of the rate that was asked for: each life of the line has a begin."""
TOLD = 20
"""Broken promises that are told one by one."""


class DurableFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a durable consumer got."""

    kind: str
    topics: tuple[str, ...]
    slow: bool
    wanted: int
    """Events of its topics in the journal."""
    events: int
    """That came, each counted once."""
    duplicates: int
    """That came again, with equal keys and equal bytes."""
    longest_lag_s: float | None
    """The greatest age of an event when it came; null: the client does not note when that was."""
    longest_catch_up_s: float | None
    """For how long, at most, what came was more than a second old."""


class LiveFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a live subscriber got."""

    kind: str
    topics: tuple[str, ...]
    replay: bool = False
    """In older results: it had what it missed replayed."""
    events: int
    gaps: int
    """That it told of."""
    missed: int
    """Events in them, as far as anybody knows of them."""
    late: int
    """Events that came after younger ones of other topics, as they were had again."""
    beyond: int
    """Events of a boot that died while it had no contact, and that no journal holds."""


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen."""

    bundle: str
    precision: Precision
    commit: str | None
    """Of the code that ran; none where it is no checkout. `-dirty` where files were changed since."""
    seed: int
    seconds: float
    rate_fps: float
    """That the cameras bring, together."""
    plan: list[Fault]
    kills: dict[str, int]
    faults: dict[str, int]
    boots: int
    told_s: float
    """For how long the line told of frames; it was down for the rest."""
    events: int
    """In the journal."""
    events_per_s: float
    """All events that there were, while it told."""
    live_only: int
    """Events that no journal holds and somebody heard."""
    unheard: int
    """Events that no journal holds and nobody heard, as far as the journal says that there were any."""
    full_disk_felt: bool | None
    """Whether events went live only on it; null: no disk was filled."""
    recorded_again_s: float | None
    """After there was room again."""
    drained_s: float
    """Until everybody had all, once the line took no frames any more."""
    durable: dict[str, DurableFound]
    live: dict[str, LiveFound]
    broken: list[Broken]
    ended: list[str]
    """Processes that ended by themselves."""


def measure_chaos(
    bundle: Bundle,
    precision: Precision,
    *,
    seed: int,
    seconds: float,
    rate_fps: float,
    say: Callable[[str], None],
    cast: Sequence[Part] = CAST,
    plan: Sequence[Fault] | None = None,
    keep: Path | None = None,
) -> Chaos:
    """Have all go wrong that can, and hold what everybody got against the journal.

    Ctrl-C and SIGTERM end it, with all that it started. Only in the main thread.

    Args:
        seconds: for which faults go on, by a clock that stands still while the line is down.
        rate_fps: of the line's two cameras together.
        plan: what is done; by default it is drawn from the seed.
        keep: folder for all that was written, to look into.
    Raises:
        BenchError: the line does not start, does not tell, or does not stop.
    """
    if documented_client() is None:
        cast = [part for part in cast if part.kind != "client of protocol.md"]
        say("THIS IS NO CHECKOUT, SO THE CLIENT OF docs/protocol.md DOES NOT LISTEN")
    with _terminated_as_interrupted(), Stage(bundle, precision, cast, rate_fps, seconds, say) as stage:
        if plan is None:
            plan = _drawn(seed, seconds, cast, stage.disk is not None)
        elif stage.disk is None:
            plan = [fault for fault in plan if fault.target != DISK]
        say(f"seed {seed}: {len(plan)} faults, {kills_in(plan)} kills among them")
        try:
            seen = play(stage, plan, say)
            durable, live, broken = judge(seen)
        finally:
            if keep is not None:
                stage.keep(keep)
    truth = seen.truth
    events = sum(map(len, truth.journals.values()))
    return Chaos(
        bundle=bundle.path.name,
        precision=precision,
        commit=commit(),
        seed=seed,
        seconds=seconds,
        rate_fps=rate_fps,
        plan=list(plan),
        kills=dict(seen.kills),
        faults=dict(seen.faults),
        boots=seen.boots,
        told_s=seen.told_s,
        events=events,
        events_per_s=(events + len(truth.unjournalled)) / seen.told_s,
        live_only=len(truth.unjournalled),
        unheard=sum(unheard_events(truth).values()),
        full_disk_felt=seen.felt_full,
        recorded_again_s=seen.recorded_again_s,
        drained_s=seen.drained_s,
        durable=durable,
        live=live,
        broken=broken,
        ended=seen.ended,
    )


def _drawn(seed: int, seconds: float, cast: Sequence[Part], has_disk: bool) -> list[Fault]:
    return make_plan(
        seed,
        seconds,
        killable=[part.name for part in cast if part.killed],
        stoppable=[part.name for part in cast if part.stopped],
        links=[name for part in cast for name in part.link_names],
        has_disk=has_disk,
    )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, so that processes and disk are let go of."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def judge(seen: Seen) -> tuple[dict[str, DurableFound], dict[str, LiveFound], list[Broken]]:
    """What each client got, and every promise that was not kept."""
    durable, live = {}, {}
    heard = [bytes(item.header) for player in seen.players.values() for item in _live_items(player)]
    truth = Truth(seen.truth.journals, [*seen.truth.heard, *heard], seen.truth.boots)
    broken = [*truth.broken, *check_journal(truth), *check_frames(truth, unheard_events(truth)), *check_told(truth)]
    by_then = truth.up_to(seen.through)
    for name, player in seen.players.items():
        part = player.part
        if part.durable:
            found = check_durable(name, part.topics, player.headers(), by_then)
            received = list(_received(player)) if part.kind == "Follower" else None
            durable[name] = DurableFound(
                kind=part.kind,
                topics=part.topics,
                slow=part.slow,
                wanted=len(by_then.wanted(part.topics)),
                events=found.events,
                duplicates=found.duplicates,
                longest_lag_s=None if received is None else longest_lag_s(received),
                longest_catch_up_s=None if received is None else longest_catch_up_s(received),
            )
            broken += found.broken
        else:
            if part.kind == "Subscriber":
                heard_live = check_live(name, part.topics, read_record(player.record), truth)
            else:
                heard_live = check_bare(name, (line.decode() for line in whole_lines(player.record)), truth)
            live[name] = LiveFound(
                kind=part.kind,
                topics=part.topics,
                events=heard_live.events,
                gaps=heard_live.gaps,
                missed=heard_live.missed,
                late=heard_live.late,
                beyond=heard_live.beyond,
            )
            broken += heard_live.broken
    return durable, live, broken


def _live_items(player: Player) -> Iterator[Got]:
    if player.part.kind == "Subscriber":
        yield from (item for item in read_record(player.record) if isinstance(item, Got))


def _received(player: Player) -> Iterator[tuple[int, int]]:
    """When each frame's event came, and when the frame was captured."""
    for item in map(item_of, whole_lines(player.record)):
        if isinstance(item, Got) and (captured_ns := head_of(item.header).times.get("captured_at_ns")):
            yield item.at_ns, captured_ns


# What it comes to.


def faults(found: Chaos) -> list[str]:
    """What must not be, in words; none: every promise was kept."""
    wrong = [*(f"{one.who}: {one.what} ({one.promise})" for one in found.broken), *found.ended]
    if len(wrong) > TOLD:
        wrong = [*wrong[:TOLD], f"and {len(wrong) - TOLD} more"]
    if found.full_disk_felt is False:
        wrong.append("events were kept on the disk that was full: nothing is known of what becomes of them then")
    return wrong


def to_facts(found: Chaos) -> dict[str, str]:
    """Names and values, for people."""
    kept = f"{found.events} in the journal, {found.live_only} live only, {found.unheard} of those unheard"
    facts = {
        "seed": str(found.seed),
        "kills": _counts(found.kills),
        "faults": _counts(found.faults),
        "the line": f"{found.boots} lives, told of frames for {found.told_s:.1f} s",
        "events": f"{kept}; {found.events_per_s:.0f} a second"
        + ("" if found.events_per_s >= NEAR_ENOUGH * found.rate_fps else f", NOT {found.rate_fps:g} AS ASKED FOR"),
        "caught up": f"{found.drained_s:.1f} s after the last frame",
    }
    if found.full_disk_felt is not None:
        again = (
            "" if found.recorded_again_s is None else f", kept again {found.recorded_again_s:.1f} s after it had room"
        )
        facts["full disk"] = ("felt" if found.full_disk_felt else "NOT FELT") + again
    for name, one in found.durable.items():
        lag = ""
        if one.longest_lag_s is not None and one.longest_catch_up_s is not None:
            lag = f", at most {one.longest_lag_s:.1f} s late, caught up within {one.longest_catch_up_s:.1f} s"
        how = f"{one.kind}, slow" if one.slow else one.kind
        facts[name] = f"{how}: {one.events} of {one.wanted}, {one.duplicates} came again{lag}"
    for name, each in found.live.items():
        facts[name] = f"{each.kind}: {each.events}; {each.missed} missed in {each.gaps} gaps"
        if each.beyond:
            facts[name] += f", and {each.beyond} live only, of a life that died meanwhile"
    facts["promises"] = "all kept" if not faults(found) else f"{len(found.broken) + len(found.ended)} broken"
    return facts


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
