"""Ours beside what others would use: the same frames, network, precision and machine, one run, in turns.

Each system is a process that is warm, and idle while another one works. Before, each has tried its settings and kept
the fastest. The engine alone, which moves no pixel, is the measure: a system's share of it is what it makes of the
machine.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.peers.expected import OF_SPREAD, logits_off, what_differs
from bench.peers.systems import ENGINE, OURS, SYSTEMS, System, SystemName
from bench.peers.worker import Ready, Tried, Turn, Worker, in_words
from bench.processes import cpu_ns
from bench.spread import Spread, interleaved
from edge.errors import BenchError
from edge.geometry import TileGrid
from edge.inference import Precision

if TYPE_CHECKING:  # they import PyTorch
    from bench.peers.prepare import Prepared
    from train.config import CnnConfig, VitConfig

BATCHES = (1, 4, 8, 16, 32)
"""Tiles at once that a system is tried with, where its interface lets one choose."""
SETTLE_SECONDS = 0.25
"""Before a turn: threads of the one before still look for work for a while, on the cores of the next one."""
MOST_BY_OTHERS = 0.05
"""Of one core, by systems that have no turn: above, they change what is timed."""


class SystemSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """One system, all rounds."""

    name: SystemName
    what: str
    """It is made of, in words."""
    libraries: dict[str, str]
    settings: dict[str, Any]
    """The fastest of those that were tried."""
    tried: list[Tried]
    heatmap_hw: tuple[int, int] | None
    """None: it makes none."""
    frames_per_s: Spread
    tiles_per_s: Spread
    to_engine: float
    """Its median rate over that of the engine alone."""
    to_engine_spread: Spread
    """Of the same ratio round by round."""
    ours_to_it: float
    """Our median rate over its own."""
    ours_to_it_spread: Spread
    ms_per_frame: dict[str, float]
    """Its parts, where it has them one after another: medians."""
    logits_off: float
    """From those that it must answer with, at most: a share of how far those of different tiles are apart."""


class PeersBench(msgspec.Struct, frozen=True, kw_only=True):
    """All systems."""

    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    tiles_per_frame: int
    frames: int
    """Different ones, in each turn."""
    rounds: int
    threads: int
    """That each system may use: all cores."""
    systems: list[SystemSpeed]
    others_cpu: float
    """Of one core, what all workers together took that were not in turn: the highest share of any turn."""


def measure_peers(
    config: "CnnConfig | VitConfig",
    *,
    precision: Precision,
    frame_hw: tuple[int, int],
    frames: int,
    rounds: int,
    peers: Sequence[SystemName],
    peers_python: Path,
    report_line: Callable[[str], None],
    tile_px: int,
    overlap_px: int,
    batches: Sequence[int] = BATCHES,
) -> PeersBench:
    """Time the engine alone, ours and these peers.

    Args:
        peers_python: has what anomalib and Model API need.
    Raises:
        BenchError: a peer is not installed, fails, or does not answer as it must.
        EngineError: OpenVINO cannot run the network in this precision.
        ConfigError, ExportError: the network cannot be made.
    """
    from bench.peers.prepare import prepare

    chosen = [system for system in SYSTEMS if system.name in (ENGINE, OURS, *peers)]
    systems = [system for system in chosen if precision in system.precisions]
    for system in chosen:
        if system not in systems:
            report_line(f"{system.name} cannot compute in {precision}, and is left out: docs/peers.md has the reason")
    if min(frame_hw) < tile_px:
        raise BenchError(
            f"--size is {frame_hw[1]}x{frame_hw[0]}, smaller than a tile of {tile_px} px, which anomalib cannot cut; "
            f"give {tile_px}x{tile_px} or more"
        )
    pythons = {system.name: _python(system, peers_python) for system in systems}
    grid = TileGrid(frame_hw, tile_px, overlap_px)
    with tempfile.TemporaryDirectory(prefix="heatline-peers-") as name, ExitStack() as stack:
        folder = Path(name)
        prepared = prepare(
            folder,
            config,
            precision=precision,
            grid=grid,
            frames=frames,
            systems=[system.name for system in systems],
            batches=batches,
            report_line=report_line,
        )
        workers, ready = {}, {}
        for system in systems:
            worker = Worker(system.name, pythons[system.name], system.module, prepared.job_file, folder)
            workers[system.name] = stack.enter_context(worker)
            ready[system.name] = worker.become_ready(report_line)
        require_same_libraries(ready)
        turns, off, others_cpu = _run_rounds(workers, rounds, prepared, report_line)
    rates = {name: [frames / turn.seconds for turn in of] for name, of in turns.items()}
    return PeersBench(
        model=config.name,
        precision=precision,
        frame_hw=frame_hw,
        tiles_per_frame=len(grid),
        frames=frames,
        rounds=rounds,
        threads=prepared.job.threads,
        systems=[
            _speed(system, ready[system.name], turns[system.name], rates, frames, len(grid), off[system.name])
            for system in systems
        ],
        others_cpu=others_cpu,
    )


def require_same_libraries(ready: Mapping[SystemName, Ready]) -> None:
    """See that no system runs on another OpenVINO or PyTorch than the others.

    Raises:
        BenchError: one does.
    """
    for library in ("openvino", "torch"):
        versions: dict[str, str] = {
            name: one.libraries[library].partition("+")[0]  # torch's build for processors alone is `2.13.0+cpu`
            for name, one in ready.items()
            if library in one.libraries
        }
        if len(set(versions.values())) > 1:
            raise BenchError(
                f"systems run on different versions of {library}, which would be compared instead of them: "
                f"{in_words(versions)}; make the peers' environment anew with `make peers-env`"
            )


def to_facts(found: PeersBench) -> dict[str, object]:
    """What was found, for people."""
    return {
        "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.frames} frames of "
        f"{found.tiles_per_frame} tiles, on {found.threads} threads",
        **{one.name: _in_a_line(one) for one in found.systems},
        "the others meanwhile": f"took {found.others_cpu:.3f} of a core at most",
    }


def faults(found: PeersBench) -> list[str]:
    """Why its figures are not to be believed, in words."""
    if found.others_cpu <= MOST_BY_OTHERS:
        return []
    return [
        f"systems that had no turn took {found.others_cpu:.3f} of a core, expected at most {MOST_BY_OTHERS}: they are "
        "not idle, and slow the one that is timed; measure again"
    ]


def _in_a_line(one: SystemSpeed) -> str:
    parts = "".join(f"; {part} {ms:.0f} ms" for part, ms in one.ms_per_frame.items())
    beside = "" if one.name in (ENGINE, OURS) else f"; ours is {one.ours_to_it:.2f} times as fast"
    return (
        f"{one.frames_per_s:.2f} frames/s, {one.tiles_per_s.median:.0f} tiles/s; {one.to_engine:.3f} of the engine "
        f"alone, by rounds {one.to_engine_spread:.3f}{beside}; {in_words(one.settings)}{parts}"
    )


def _python(system: System, peers_python: Path) -> Path:
    """Which Python runs a system.

    Raises:
        BenchError: there is none.
    """
    if not system.in_peers_environment:
        return Path(sys.executable)
    if not peers_python.is_file():
        raise BenchError(
            f"{system.name} is run by {peers_python}, which is not there; make it with `make peers-env`, name another "
            "one with --peers-python, or choose peers that need none with --peer grad-cam"
        )
    return peers_python.absolute()


def _run_rounds(
    workers: Mapping[SystemName, Worker], rounds: int, prepared: "Prepared", report_line: Callable[[str], None]
) -> tuple[dict[SystemName, list[Turn]], dict[SystemName, float], float]:
    """All turns of each, how far logits were off at most, and what the others took of a core meanwhile at most."""
    turns: dict[SystemName, list[Turn]] = {name: [] for name in workers}
    off, others_cpu = dict.fromkeys(workers, 0.0), 0.0
    for number, order in enumerate(interleaved(workers, rounds), 1):
        for name in order:
            others = [worker.pid for other, worker in workers.items() if other != name]
            time.sleep(SETTLE_SECONDS)
            before = sum(map(cpu_ns, others))
            turn = workers[name].turn()
            others_cpu = max(others_cpu, (sum(map(cpu_ns, others)) - before) / 1e9 / turn.seconds)
            off[name] = max(off[name], checked(name, turn, prepared))
            turns[name].append(turn)
            report_line(f"round {number} of {rounds}: {name} {turn.seconds:.2f} s")
    return turns, off, others_cpu


def checked(name: SystemName, turn: Turn, prepared: "Prepared") -> float:
    """See that the work of a turn was done; returns how far its logits are off, as a share of their spread.

    Raises:
        BenchError: it was not.
    """
    job, expected, found = prepared.job, prepared.expected[name], turn.answers
    spread = float(expected.logits.std())
    if name == ENGINE:
        expected = expected.of_requests(*found["logits"].shape)
    off = logits_off(found, expected, spread)
    wrong = f"its logits are off by {off:.2g} of their spread" if not off <= OF_SPREAD[job.precision] else None
    if wrong is None and name != ENGINE:
        wrong = what_differs(found, expected, job.precision, job.sample_px, job.score_threshold)
    if wrong is not None:
        raise BenchError(f"{name} does not do the work that is timed: {wrong}")
    return off


def _speed(
    system: System,
    ready: Ready,
    turns: Sequence[Turn],
    rates: Mapping[SystemName, Sequence[float]],
    frames: int,
    tiles: int,
    off: float,
) -> SystemSpeed:
    own = rates[system.name]
    sides = turns[0].answers.get("hw")
    return SystemSpeed(
        name=system.name,
        what=system.what,
        libraries=ready.libraries,
        settings=ready.settings,
        tried=ready.tried,
        heatmap_hw=None if sides is None else (int(sides[0][0]), int(sides[0][1])),
        frames_per_s=Spread.of(own),
        tiles_per_s=Spread.of([tiles * rate for rate in own]),
        to_engine=statistics.median(own) / statistics.median(rates[ENGINE]),
        to_engine_spread=Spread.of([rate / engine for rate, engine in zip(own, rates[ENGINE], strict=True)]),
        ours_to_it=statistics.median(rates[OURS]) / statistics.median(own),
        ours_to_it_spread=Spread.of([ours / rate for ours, rate in zip(rates[OURS], own, strict=True)]),
        ms_per_frame={
            part: statistics.median(1e3 * turn.laps[part] / frames for turn in turns) for part in turns[0].laps
        },
        logits_off=off,
    )
