"""Heatline compared with other systems: the same frames, network, precision and machine, in interleaved rounds.

Each system is a warm process, idle while another one works, with the fastest of its settings. Figures are relative to
the engine alone, which copies no pixel.
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

from heatline.bench.peers.expected import OF_SPREAD, find_difference, logits_off
from heatline.bench.peers.systems import ENGINE, OURS, SYSTEMS, System, SystemName
from heatline.bench.peers.worker import Ready, Tried, Turn, Worker, format_settings
from heatline.bench.processes import cpu_ns
from heatline.bench.spread import Spread, interleaved
from heatline.edge.errors import BenchError
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Precision

if TYPE_CHECKING:  # they import PyTorch
    from heatline.bench.peers.prepare import Prepared
    from heatline.train.config import CnnConfig, VitConfig

BATCHES = (1, 4, 8, 16, 32)
"""Numbers of tiles at once to try, where a system's interface allows a choice."""
SETTLE_SECONDS = 0.25
"""Pause before a turn: threads of the system before may spin for a while on the cores of the next one."""
MOST_BY_OTHERS = 0.05
"""Processor time of the idle systems, as a share of one core: above, they slow the one that is timed."""


class SystemSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one system over all rounds."""

    name: SystemName
    what: str
    """Description of the system."""
    libraries: dict[str, str]
    settings: dict[str, Any]
    """The fastest settings."""
    tried: list[Tried]
    heatmap_hw: tuple[int, int] | None
    """None: it makes no heatmap."""
    frames_per_s: Spread
    tiles_per_s: Spread
    to_engine: float
    """Its median rate over that of the engine alone."""
    to_engine_spread: Spread
    """The same ratio by rounds."""
    ours_to_it: float
    """Our median rate over its own."""
    ours_to_it_spread: Spread
    ms_per_frame: dict[str, float]
    """Medians of its parts, if they run one after the other."""
    logits_off: float
    """Largest error, as a share of the standard deviation between tiles."""


class PeersBench(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    tiles_per_frame: int
    frames: int
    """Different frames in each turn."""
    rounds: int
    threads: int
    """Threads that each system may use: one per core."""
    systems: list[SystemSpeed]
    others_cpu: float
    """Processor time of the idle workers together, as a share of one core: the largest of all turns."""


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
    """Time the engine alone, heatline and these peers.

    Args:
        peers_python: Python of the environment that has anomalib and Model API.
    Raises:
        BenchError: a peer is not installed, fails, or answers wrongly.
        EngineError: OpenVINO cannot run the network in this precision.
        ConfigError, ExportError: the network cannot be made.
    """
    from heatline.bench.peers.prepare import prepare

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
    """Check that all systems run on one version of OpenVINO and of PyTorch.

    Raises:
        BenchError: the versions differ.
    """
    for library in ("openvino", "torch"):
        versions: dict[str, str] = {
            name: one.libraries[library].partition("+")[0]  # torch's build for processors alone is `2.13.0+cpu`
            for name, one in ready.items()
            if library in one.libraries
        }
        if len(set(versions.values())) > 1:
            raise BenchError(
                f"systems run on different versions of {library}, which would change their speed: "
                f"{format_settings(versions)}; make the peers' environment again with `make peers-env`"
            )


def to_facts(found: PeersBench) -> dict[str, object]:
    """Describe the results for people, by name and value."""
    return {
        "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.frames} frames of "
        f"{found.tiles_per_frame} tiles, on {found.threads} threads",
        **{one.name: _describe(one) for one in found.systems},
        "idle systems": f"took {found.others_cpu:.3f} of a core at most",
    }


def faults(found: PeersBench) -> list[str]:
    """Return why the figures do not count, one sentence each."""
    if found.others_cpu <= MOST_BY_OTHERS:
        return []
    return [
        f"idle systems took {found.others_cpu:.3f} of a core, expected at most {MOST_BY_OTHERS}, and slowed the timed "
        "one; measure again"
    ]


def _describe(one: SystemSpeed) -> str:
    parts = "".join(f"; {part} {ms:.0f} ms" for part, ms in one.ms_per_frame.items())
    ours = "" if one.name in (ENGINE, OURS) else f"; heatline is {one.ours_to_it:.2f} times as fast"
    return (
        f"{one.frames_per_s:.2f} frames/s, {one.tiles_per_s.median:.0f} tiles/s; {one.to_engine:.3f} of the engine "
        f"alone, by rounds {one.to_engine_spread:.3f}{ours}; {format_settings(one.settings)}{parts}"
    )


def _python(system: System, peers_python: Path) -> Path:
    """Return the Python that runs a system.

    Raises:
        BenchError: it does not exist.
    """
    if not system.in_peers_environment:
        return Path(sys.executable)
    if not peers_python.is_file():
        raise BenchError(
            f"{system.name} is run by {peers_python}, which does not exist; make it with `make peers-env`, name "
            "another one with --peers-python, or choose peers that need none with --peer grad-cam"
        )
    return peers_python.absolute()


def _run_rounds(
    workers: Mapping[SystemName, Worker], rounds: int, prepared: "Prepared", report_line: Callable[[str], None]
) -> tuple[dict[SystemName, list[Turn]], dict[SystemName, float], float]:
    """Return the turns of each system, the largest error of its logits, and the others' largest share of a core."""
    turns: dict[SystemName, list[Turn]] = {name: [] for name in workers}
    off, others_cpu = dict.fromkeys(workers, 0.0), 0.0
    for number, order in enumerate(interleaved(workers, rounds), 1):
        for name in order:
            others = [worker.pid for other, worker in workers.items() if other != name]
            time.sleep(SETTLE_SECONDS)
            before = sum(map(cpu_ns, others))
            turn = workers[name].turn()
            others_cpu = max(others_cpu, (sum(map(cpu_ns, others)) - before) / 1e9 / turn.seconds)
            off[name] = max(off[name], check_turn(name, turn, prepared))
            turns[name].append(turn)
            report_line(f"round {number} of {rounds}: {name} {turn.seconds:.2f} s")
    return turns, off, others_cpu


def check_turn(name: SystemName, turn: Turn, prepared: "Prepared") -> float:
    """Check the answers of a turn; return the largest error of its logits, as a share of their standard deviation.

    Raises:
        BenchError: an answer is wrong.
    """
    job, expected, found = prepared.job, prepared.expected[name], turn.answers
    spread = float(expected.logits.std())
    if name == ENGINE:
        expected = expected.of_requests(*found["logits"].shape)
    off = logits_off(found, expected, spread)
    wrong = f"its logits are off by {off:.2g} of their spread" if not off <= OF_SPREAD[job.precision] else None
    if wrong is None and name != ENGINE:
        wrong = find_difference(found, expected, job.precision, job.sample_px, job.score_threshold)
    if wrong is not None:
        raise BenchError(f"{name} gives wrong answers, so its time counts for nothing: {wrong}")
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
