"""`make hostile`: cost of malformed messages for inspection, compared with as many valid ones (docs/bench.md)."""

import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec

from heatline.bench.machine import commit
from heatline.bench.processes import cpu_s, sample_tree
from heatline.bench.spread import Spread
from heatline.bench.watched_line import START_WITHIN_SECONDS, Keys, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import VerdictEvent
from tests.system.command import Result, counts, parser, positive, report_line, run
from tests.system.hostile_messages import SocketName
from tests.system.sender import Sender, What

CAMERA = "cam0"
MESSAGES_PER_S = 300.0
"""On each socket that reads."""
SETTLE_S = 1.0
TARGET_RATIO = 1.05
NEAR_ENOUGH = 0.95
MOST_PSS_GROWTH_BYTES = 16 << 20
"""Allowed growth of the service's memory over all rounds; it stores none of the messages."""
KINDS: tuple[What, ...] = ("nothing", "valid", "malformed")


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one window with one kind of messages."""

    what: What
    seconds: float
    frames: int
    """Inspected frames."""
    lost: dict[str, int]
    """Frames without a verdict, by the reason."""
    cpu_ms_per_frame: float
    """Processor time of the service's process."""
    sent: dict[SocketName, int]
    replies: dict[str, int]


class Hostile(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    commit: str | None
    rate_fps: float
    messages_per_s: float
    """On each socket that reads."""
    rounds: list[Round]
    ratio: float
    """Processor time per frame under malformed messages over that under valid ones, of medians."""
    ratio_spread: Spread
    """The same ratio by rounds."""
    pss_bytes: tuple[int, int]
    """PSS of the service's processes, before and after all rounds."""


def measure_hostile(
    bundle: Bundle,
    *,
    rate_fps: float,
    seconds: float,
    rounds: int,
    report_line: Callable[[str], None],
    messages_per_s: float = MESSAGES_PER_S,
) -> Hostile:
    """Run a line without messages, with valid and with malformed ones in interleaved windows, on each reading socket.

    Args:
        rate_fps: of its camera; the line must keep up with it.
        seconds: of each window.
    Raises:
        BenchError: a process failed, or no frame was inspected.
    """
    size = [bundle.manifest.grid.tile_px] * 2
    camera: Keys = {"kind": "pattern", "name": CAMERA, "draw_size": size, "rate_fps": rate_fps, "waiting_frames": 16}
    found: list[Round] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        WatchedLine(Path(folder), bundle.path, "f32", [camera], journal=True) as line,
    ):
        line.until(_is_inspected, START_WITHIN_SECONDS, "the first frame")
        line.receive_for(SETTLE_S)
        assert line.journal_address is not None
        addresses: dict[SocketName, str] = {
            "events": line.address,
            "commands": line.commands_address,
            "journal": line.journal_address,
        }
        pss_before = _pss_bytes(line)
        for number in range(rounds):
            for what in KINDS[:: 1 if number % 2 else -1]:
                with Sender(what, messages_per_s, number, CAMERA, addresses) as sender:
                    found.append(one := _round(line, what, sender, seconds))
                report_line(f"{what}: {one.cpu_ms_per_frame:.3f} ms of CPU per frame, {sum(one.sent.values())} sent")
        pss_after = _pss_bytes(line)
        line.stop()
    valid, malformed = _cpu_ms(found, "valid"), _cpu_ms(found, "malformed")
    return Hostile(
        bundle=bundle.path.name,
        commit=commit(),
        rate_fps=rate_fps,
        messages_per_s=messages_per_s,
        rounds=found,
        ratio=median(malformed) / median(valid),
        ratio_spread=Spread.of([bad / good for bad, good in zip(malformed, valid, strict=True)]),
        pss_bytes=(pss_before, pss_after),
    )


def _round(line: WatchedLine, what: What, sender: Sender, seconds: float) -> Round:
    """Measure one window; the sender starts before it and ends after it."""
    verdicts: Counter[str] = Counter()
    line.receive_for(SETTLE_S)
    began_s, before_s = time.monotonic(), cpu_s(line.pid)
    while time.monotonic() < began_s + seconds:
        if (received := line.next()) is not None and isinstance(received.event, VerdictEvent):
            verdicts[received.event.reason or "inspected"] += received.event.frames
    taken_s, took_s = cpu_s(line.pid) - before_s, time.monotonic() - began_s
    frames = verdicts.pop("inspected", 0)
    if not frames:
        raise BenchError(f"no frame was inspected while {what} messages came")
    return Round(
        what=what,
        seconds=took_s,
        frames=frames,
        lost=dict(verdicts),
        cpu_ms_per_frame=taken_s * 1e3 / frames,
        sent=dict(sender.sent),
        replies=dict(sender.replies),
    )


def _is_inspected(event: object) -> bool:
    return isinstance(event, VerdictEvent) and event.reason is None


def _pss_bytes(line: WatchedLine) -> int:
    sample = sample_tree(line.pid)
    return 0 if sample is None else sample.pss_bytes


def _cpu_ms(rounds: list[Round], what: What) -> list[float]:
    return [each.cpu_ms_per_frame for each in rounds if each.what == what]


def _lost(rounds: Sequence[Round]) -> Counter[str]:
    """Frames without a verdict in all rounds, by the reason."""
    lost: Counter[str] = Counter()
    for one in rounds:
        lost.update(one.lost)
    return lost


def faults(found: Hostile) -> list[str]:
    """Return all faults, one sentence each."""
    wrong = []
    if found.ratio > TARGET_RATIO:
        wrong.append(
            f"a frame costs {found.ratio:.3f} times the CPU under malformed messages, the target is {TARGET_RATIO}"
        )
    if lost := _lost(found.rounds):
        wrong.append(f"frames were lost: {counts(lost)}")
    before, after = found.pss_bytes
    if after - before > MOST_PSS_GROWTH_BYTES:
        wrong.append(
            f"its PSS grew by {(after - before) / 1e6:.1f} MB over all rounds, allowed are "
            f"{MOST_PSS_GROWTH_BYTES / 1e6:.1f} MB"
        )
    for each in found.rounds:
        wanted = found.messages_per_s * each.seconds * NEAR_ENOUGH
        if each.what != "nothing" and min(each.sent.values()) < wanted:
            wrong.append(f"only {min(each.sent.values())} {each.what} messages were sent in {each.seconds:.1f} s")
    return wrong


def to_facts(found: Hostile) -> dict[str, str]:
    """Describe the result for people, by name and value."""
    facts = {
        "load": f"{found.rate_fps:g} frames/s; {found.messages_per_s:g} messages a second on each of three sockets"
    }
    for what in KINDS:
        facts[f"CPU per frame, {what}"] = f"{Spread.of(_cpu_ms(found.rounds, what)):.3f} ms"
    facts["malformed / valid"] = f"{found.ratio:.3f} of medians; by rounds {found.ratio_spread:.3f}"
    replies: Counter[str] = Counter()
    for one in found.rounds:
        if one.what == "malformed":
            replies.update(one.replies)
    before, after = found.pss_bytes
    return {
        **facts,
        "replies to malformed": counts(replies),
        "frames lost": counts(_lost(found.rounds)),
        "PSS": f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after",
    }


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_hostile(
        bundle, rate_fps=arguments.rate, seconds=arguments.seconds, rounds=arguments.rounds, report_line=report_line
    )
    return Result(found, to_facts(found), faults(found))


def main() -> None:
    options = parser("Measure the cost of a frame while a line gets malformed messages, valid ones, or none.")
    options.add_argument(
        "--rate", type=positive(float), default=150.0, help="frames per second, fewer than the line could inspect"
    )
    options.add_argument("--seconds", type=positive(float), default=10.0, help="duration of each window")
    options.add_argument("--rounds", type=positive(int), default=8, help="number of windows of each kind of messages")
    sys.exit(run("hostile", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
