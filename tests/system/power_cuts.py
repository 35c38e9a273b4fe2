"""`make power-cuts`: no result is lost on its way to an MQTT subscriber when line, bridge and broker die together."""

import contextlib
import random
import secrets
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import msgspec

from heatline.edge.bundle import Bundle
from heatline.edge.errors import JournalError
from tests.command import HEATLINE
from tests.edge.brokers import OPEN, Broker, Plant
from tests.edge.lines import Restartable
from tests.edge.secured import free_port, until
from tests.needs import find
from tests.system.chaos.clients import head_of
from tests.system.chaos.run import lines_of, stored_in
from tests.system.command import Result, parser, positive, report_line, run

PERSISTENT = "persistence true\npersistence_location {folder}/\nautosave_interval {autosave_s}\nmax_queued_messages 0\n"
CAUGHT_UP_WITHIN_SECONDS = 90.0
LONGEST_LIFE_SECONDS = 12.0


class PowerCuts(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a run."""

    seed: int
    autosave_s: int | None
    """`autosave_interval` of the broker; None: it stores nothing."""
    republish_s: float
    cuts: int
    away_at_a_cut: int
    """Cuts during which the subscriber was away."""
    results: int
    """Results in the journal."""
    missing: int
    """Results in the journal that the subscriber never received."""
    repeated: int
    """Messages that it had received before."""
    out_of_order: int
    """Results that came for the first time after a later one of their camera."""


class _LinePc:
    """Line, bridge and broker on one PC, whose power is cut."""

    def __init__(self, folder: Path, bundle: Bundle, broker: Broker, rate_fps: float, republish_s: float) -> None:
        self._state, self._broker = folder / "state", broker
        self._state.mkdir()
        self._ports = events, journal = free_port(), free_port()
        tables = f"""
[journal]
folder = "{self._state}"
bind = "{journal.local}"
[mqtt]
broker = "mqtt://127.0.0.1:{broker.port}"
start = "first"
republish_s = {republish_s}
"""
        self._inspecting, self._idle = lines_of(folder, bundle, rate_fps, self._state, events, tables)
        bridge: list[str | Path] = [HEATLINE, "bridge", "mqtt", folder / "inspecting" / "line.toml"]
        self._bridge = Restartable("the bridge", bridge, folder / "bridge.log")

    def power_on(self, *, inspects: bool) -> None:
        """Start all; not inspecting, the line's cameras wait for a trigger that never comes."""
        self._broker.start()
        (self._inspecting if inspects else self._idle).start()
        self._bridge.start()

    def cut_power(self) -> None:
        """Kill all within milliseconds; none had ended by itself."""
        processes = [self._inspecting, self._idle, self._bridge]
        ended = [fault for each in processes if (fault := each.ended()) is not None]
        self._broker.kill()
        for process in processes:
            process.kill()
        assert not ended, "; ".join(ended)

    def journalled(self) -> list[str]:
        """Return the ids of all results in the journal, in order."""
        try:
            stored = stored_in(self._state)
        except JournalError as error:
            if error.kind != "missing":
                raise
            return []
        return [head_of(one.header).key for one in stored if one.topic.startswith("verdict.")]


def measure_power_cuts(
    bundle: Bundle,
    *,
    seed: int,
    cuts: int,
    rate_fps: float,
    autosave_s: int | None,
    republish_s: float,
    longest_life_s: float = LONGEST_LIFE_SECONDS,
) -> PowerCuts:
    """Cut the power again and again at random moments; the subscriber is there, or away, or leaves and comes back."""
    draw = random.Random(seed)
    away_at_a_cut, before, port = 0, 0, free_port()

    def inspects() -> bool:
        return len(pc.journalled()) > before

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as open_:
        folder = Path(name)
        stores = "" if autosave_s is None else PERSISTENT.format(folder=folder, autosave_s=autosave_s)
        broker = Broker(folder, port.local, f"{stores}{OPEN}")
        pc = _LinePc(folder, bundle, broker, rate_fps, republish_s)
        open_.callback(pc.cut_power)
        with broker:  # it must know the subscription before the subscriber may be away
            plant = open_.enter_context(Plant(broker, "heatline/line/result/+", session="mes"))
            if autosave_s is not None:
                until(lambda: (folder / "mosquitto.db").exists(), "the broker stores the session")
        for cut in range(cuts):
            before = len(pc.journalled())
            pc.power_on(inspects=True)
            if cut % 4:  # else it may die while it starts
                until(inspects, "the line inspects", CAUGHT_UP_WITHIN_SECONDS)
            until_s = time.monotonic() + draw.uniform(0.0, longest_life_s)
            while time.monotonic() < until_s:
                plant.come() if draw.random() < 0.5 else plant.leave()
                time.sleep(max(0.0, min(draw.uniform(0.0, longest_life_s / 2), until_s - time.monotonic())))
            away_at_a_cut += not plant.is_here
            pc.cut_power()
            report_line(f"cut {cut + 1}: {len(pc.journalled())} results in the journal, {len(set(plant.ids()))} came")
        plant.come()
        pc.power_on(inspects=False)
        wanted = pc.journalled()
        with contextlib.suppress(AssertionError):  # `verify` says what is missing
            until(lambda: len(plant.ids()) >= len(wanted), "all results came", CAUGHT_UP_WITHIN_SECONDS)
        plant.leave()
        received = [(each.json["camera"], each.json["seq"], each.id) for each in plant.of("result")]
    missing, repeated, out_of_order = verify(wanted, received)
    return PowerCuts(
        seed=seed,
        autosave_s=autosave_s,
        republish_s=republish_s,
        cuts=cuts,
        away_at_a_cut=away_at_a_cut,
        results=len(wanted),
        missing=missing,
        repeated=repeated,
        out_of_order=out_of_order,
    )


def verify(wanted: list[str], received: list[tuple[str, int, str]]) -> tuple[int, int, int]:
    """Return how many results are missing, came again, and came first after a later one of their camera. `wanted`: the
    ids in the journal. `received`: camera, number and id of each message, as they came."""
    last: dict[str, int] = {}
    seen: set[str] = set()
    late = 0
    for camera, seq, id_ in received:
        if id_ not in seen:
            seen.add(id_)
            late += seq < last.get(camera, 0)
            last[camera] = max(seq, last.get(camera, 0))
    return len(set(wanted) - seen), len(received) - len(seen), late


def faults(found: PowerCuts) -> list[str]:
    """Return the broken promises, one sentence each."""
    broken = {"are missing": found.missing, "came after a later one of their camera": found.out_of_order}
    nothing = [] if found.results else ["no result was journalled"]
    return nothing + [f"{count} of {found.results} results {what}" for what, count in broken.items() if count]


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    assert find("mosquitto"), "mosquitto is not installed, and power-cuts needs a broker: apt-get install mosquitto"
    found = measure_power_cuts(
        bundle,
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        cuts=arguments.cuts,
        rate_fps=arguments.rate,
        autosave_s=arguments.autosave or None,
        republish_s=arguments.republish,
        longest_life_s=arguments.longest_life,
    )
    return found, faults(found)


def main() -> None:
    options = parser("Cut the power of a line PC with its broker: does a durable subscriber miss a result?")
    options.add_argument("--cuts", type=positive(int), default=20, help="number of power cuts")
    options.add_argument("--rate", type=positive(float), default=40.0, help="results a second")
    options.add_argument("--autosave", type=positive(int, or_zero=True), default=1, help="autosave_interval; 0: none")
    options.add_argument("--republish", type=positive(float), default=5.0, help="mqtt.republish_s")
    options.add_argument("--longest-life", type=positive(float), default=LONGEST_LIFE_SECONDS, help="between cuts, s")
    options.add_argument("--seed", type=int, help="seed of the cuts; random by default")
    sys.exit(run("power-cuts", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
