"""`heatline bench hostile`: what messages that are none take from inspection, beside as many that are valid."""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from bench.delivery.hostile_messages import SocketName
from bench.delivery.sender import Orders, Sent, What
from bench.machine import commit
from bench.processes import cpu_s
from bench.soak.process_tree import sample_tree
from bench.spread import Spread
from bench.watched_line import START_WITHIN_SECONDS, Keys, WatchedLine
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import VerdictEvent

CAMERA = "cam0"
SETTLE_S = 1.0
TARGET_RATIO = 1.05
NEAR_ENOUGH = 0.95
SAYS_WITHIN_S = 30.0
KINDS: tuple[What, ...] = ("nothing", "valid", "malformed")


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One window under one kind of messages."""

    what: What
    seconds: float
    frames: int
    """That were inspected."""
    lost: dict[str, int]
    """Frames without a verdict, by the reason."""
    cpu_ms_per_frame: float
    """Of the service's process."""
    sent: dict[SocketName, int]
    replies: dict[str, int]


class Hostile(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    precision: Precision
    commit: str | None
    rate_fps: float
    messages_per_s: float
    """On each socket that reads."""
    seed: int
    rounds: list[Round]
    ratio: float
    """CPU per frame under malformed messages to that under valid ones, of the medians."""
    ratio_spread: Spread
    """Of rounds next to each other."""
    pss_bytes: tuple[int, int]
    """Of the service's processes, before all rounds and after."""


def measure_hostile(
    bundle: Bundle,
    precision: Precision,
    *,
    rate_fps: float,
    messages_per_s: float,
    seconds: float,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
) -> Hostile:
    """Run a line, and send it nothing, valid messages and malformed ones in turns, on each of its sockets that read.

    Args:
        rate_fps: of its camera; must be one that it keeps up with.
        messages_per_s: on each socket.
        seconds: of each window.
    Raises:
        BenchError: a process failed, or no frame was inspected.
    """
    tile_px = bundle.manifest.grid.tile_px
    camera: Keys = {"kind": "pattern", "name": CAMERA, "draw_size": [tile_px, tile_px], "rate_fps": rate_fps}
    found: list[Round] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        WatchedLine(Path(folder), bundle.path, precision, [{**camera, "waiting_frames": 16}], journal=True) as line,
    ):
        line.until(_is_inspected, START_WITHIN_SECONDS, "the first frame")
        assert line.journal_address is not None
        addresses: dict[SocketName, str] = {
            "events": line.address,
            "commands": line.commands_address,
            "journal": line.journal_address,
        }
        line.listen_for(SETTLE_S)
        pss_before = _pss_bytes(line)
        for number in range(rounds):
            for what in KINDS[:: 1 if number % 2 else -1]:
                orders = Orders(what, messages_per_s, seed + number, CAMERA, addresses)
                found.append(_round(line, orders, seconds))
                say(
                    f"{what}: {found[-1].cpu_ms_per_frame:.3f} ms of CPU per frame, {sum(found[-1].sent.values())} sent"
                )
        pss_after = _pss_bytes(line)
        line.stop()
    of = {what: [each.cpu_ms_per_frame for each in found if each.what == what] for what in KINDS}
    return Hostile(
        bundle=bundle.path.name,
        precision=precision,
        commit=commit(),
        rate_fps=rate_fps,
        messages_per_s=messages_per_s,
        seed=seed,
        rounds=found,
        ratio=median(of["malformed"]) / median(of["valid"]),
        ratio_spread=Spread.of([bad / good for bad, good in zip(of["malformed"], of["valid"], strict=True)]),
        pss_bytes=(pss_before, pss_after),
    )


def _round(line: WatchedLine, orders: Orders, seconds: float) -> Round:
    """One window; the sender is there before it and after."""
    verdicts: Counter[str] = Counter()
    with _sending(orders) as sender:
        line.listen_for(SETTLE_S)
        began_s, before_s = time.monotonic(), cpu_s(line.pid)
        while time.monotonic() < began_s + seconds:
            if (heard := line.next()) is not None and isinstance(heard.event, VerdictEvent):
                verdicts[heard.event.reason or "inspected"] += heard.event.frames
        taken_s, took_s = cpu_s(line.pid) - before_s, time.monotonic() - began_s
        sent = sender()
    frames = verdicts.pop("inspected", 0)
    if not frames:
        raise BenchError(f"no frame was inspected while {orders.what} messages came")
    return Round(
        what=orders.what,
        seconds=took_s,
        frames=frames,
        lost=dict(verdicts),
        cpu_ms_per_frame=taken_s * 1e3 / frames,
        sent=sent.messages,
        replies=sent.replies,
    )


@contextmanager
def _sending(orders: Orders) -> Iterator[Callable[[], Sent]]:
    """A process that sends meanwhile; gives what ends it and says what it sent."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.delivery.sender", msgspec.json.encode(orders).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:

        def end() -> Sent:
            try:
                said, _ = process.communicate(timeout=SAYS_WITHIN_S)
            except subprocess.TimeoutExpired as error:
                raise BenchError(f"the sender did not end within {SAYS_WITHIN_S:.0f} s") from error
            return msgspec.json.decode(said, type=Sent)

        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchError("the sender could not begin; see its output above")
            yield end
        finally:
            process.kill()


def _is_inspected(event: object) -> bool:
    return isinstance(event, VerdictEvent) and event.reason is None


def _pss_bytes(line: WatchedLine) -> int:
    sample = sample_tree(line.pid)
    return 0 if sample is None else sample.pss_bytes


# What it comes to.


def faults(found: Hostile) -> list[str]:
    """What must not be, in words."""
    wrong = []
    if found.ratio > TARGET_RATIO:
        wrong.append(
            f"a frame costs {found.ratio:.3f} times the CPU under malformed messages, the target is {TARGET_RATIO}"
        )
    for each in found.rounds:
        wanted = found.messages_per_s * each.seconds * NEAR_ENOUGH
        if each.what != "nothing" and min(each.sent.values()) < wanted:
            wrong.append(f"only {min(each.sent.values())} {each.what} messages were sent in {each.seconds:.1f} s")
    return wrong


def to_facts(found: Hostile) -> dict[str, str]:
    """Names and values, for people."""
    facts = {
        "load": f"{found.rate_fps:g} frames/s; {found.messages_per_s:g} messages a second on each of three sockets"
    }
    for what in KINDS:
        each = [one for one in found.rounds if one.what == what]
        spread = Spread.of([one.cpu_ms_per_frame for one in each])
        facts[f"CPU per frame, {what}"] = f"{spread:.3f} ms, median (lowest to highest) of {len(each)}"
    facts["malformed / valid"] = f"{found.ratio:.3f} of medians; by rounds {found.ratio_spread:.3f}"
    replies: Counter[str] = Counter()
    for one in found.rounds:
        if one.what == "malformed":
            replies.update(one.replies)
    facts["replies to malformed"] = ", ".join(f"{kind} {count}" for kind, count in sorted(replies.items())) or "none"
    before, after = found.pss_bytes
    facts["PSS"] = f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after"
    return facts
