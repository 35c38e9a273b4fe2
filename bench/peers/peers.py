"""Heatline compared with other systems: the same frames, network, precision and machine, in interleaved rounds.

Each system is a warm process, idle while another one works, with the fastest of its settings. Figures are relative to
the engine alone, which copies no pixel.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from heatline.bench.spread import Spread, interleaved
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.errors import BenchError
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Precision

if TYPE_CHECKING:  # they import PyTorch
    from heatline.bench.peers.prepare import Prepared
    from heatline.train.config import CnnConfig, VitConfig

SERVE = Path(__file__).parent / "serve.py"
BATCHES = (1, 4, 8, 16, 32)
"""Numbers of tiles at once to try, where a system's interface allows a choice."""
SETTLE_SECONDS = 0.25
"""Pause before a turn: threads of the system before may spin for a while on the cores of the next one."""
REPLY_WITHIN_SECONDS = 3600.0
"""Longest time of one step: the slowest system tries all its settings."""
ENGINE, OURS = "engine alone", "heatline"


@dataclass(frozen=True)
class System:
    """A system: its class in a module of this folder, or of heatline's Python."""

    module: str
    what: str
    in_peers_environment: bool = False
    """Whether the Python of the peers' environment runs it, instead of heatline's."""
    only_f32: bool = False


SYSTEMS = {
    ENGINE: System("heatline.bench.peers.ours:Alone", "OpenVINO, which infers the same tensors again and again"),
    OURS: System(
        "heatline.bench.peers.ours:Line", "the line's inspector; a frame is judged while the next is inferred"
    ),
    "anomalib": System("anomalib_tiler:System", "anomalib's Tiler and OpenVINOInferencer", in_peers_environment=True),
    "grad-cam": System("heatline.bench.peers.grad_cam:System", "PyTorch with pytorch-grad-cam", only_f32=True),
}


class SystemSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one system over all rounds."""

    name: str
    what: str
    settings: dict[str, Any]
    """The fastest settings."""
    frames_per_s: Spread
    to_engine: Spread
    """Its rate over that of the engine alone, by rounds."""
    ours_to_it: Spread
    """Our rate over its own, by rounds."""
    logits_off: float
    """Largest error, as a share of the standard deviation between tiles."""
    libraries: dict[str, str]


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


def measure_peers(
    config: "CnnConfig | VitConfig",
    *,
    precision: Precision,
    frame_hw: tuple[int, int],
    frames: int,
    rounds: int,
    peers: Sequence[str],
    peers_python: Path,
    report_line: Callable[[str], None],
    tile_px: int,
    overlap_px: int,
    batches: Sequence[int] = BATCHES,
) -> PeersBench:
    """Time the engine alone, heatline and these peers.

    Args:
        peers_python: Python of the environment that has anomalib.
    Raises:
        BenchError: a peer is not installed, fails, or answers wrongly.
        EngineError: OpenVINO cannot run the network in this precision.
        ConfigError, ExportError: the network cannot be made.
    """
    from heatline.bench.peers.prepare import prepare

    names = [name for name in (ENGINE, OURS, *peers) if precision == "f32" or not SYSTEMS[name].only_f32]
    if min(frame_hw) < tile_px:
        raise BenchError(f"--size is smaller than a tile of {tile_px} px, which anomalib cannot cut; give a larger one")
    pythons = {name: _python(name, peers_python) for name in names}
    grid = TileGrid(frame_hw, tile_px, overlap_px)
    with tempfile.TemporaryDirectory(prefix="heatline-peers-") as place, ExitStack() as stack:
        folder = Path(place)
        report_line("making frames, network and expected answers")
        prepared = prepare(folder, config, precision=precision, grid=grid, frames=frames, batches=batches)
        workers: dict[str, Worker] = {}
        for name in names:
            report_line(f"{name}: trying settings")
            worker = Worker(name, pythons[name], SYSTEMS[name].module, prepared.job_file, folder)
            workers[name] = stack.enter_context(worker)
        require_same_libraries({name: worker.libraries for name, worker in workers.items()})
        seconds: dict[str, list[float]] = {name: [] for name in names}
        off = dict.fromkeys(names, 0.0)
        for number, order in enumerate(interleaved(workers, rounds), 1):
            for name in order:
                time.sleep(SETTLE_SECONDS)
                took, answers = workers[name].turn()
                seconds[name].append(took)
                off[name] = max(off[name], check_turn(name, answers, prepared))
            report_line(
                f"round {number} of {rounds}: " + ", ".join(f"{name} {of[-1]:.2f} s" for name, of in seconds.items())
            )

    def over(one: str, other: str) -> Spread:
        return Spread.of([theirs / mine for mine, theirs in zip(seconds[one], seconds[other], strict=True)])

    return PeersBench(
        model=config.name,
        precision=precision,
        frame_hw=frame_hw,
        tiles_per_frame=len(grid),
        frames=frames,
        rounds=rounds,
        threads=prepared.job.threads,
        systems=[
            SystemSpeed(
                name=name,
                what=SYSTEMS[name].what,
                settings=worker.settings,
                frames_per_s=Spread.of([frames / took for took in seconds[name]]),
                to_engine=over(name, ENGINE),
                ours_to_it=over(OURS, name),
                logits_off=off[name],
                libraries=worker.libraries,
            )
            for name, worker in workers.items()
        ],
    )


def require_same_libraries(libraries: Mapping[str, Mapping[str, str]]) -> None:
    """Raise a BenchError unless all systems run on one version of OpenVINO and of PyTorch."""
    for library in ("openvino", "torch"):
        versions = {
            name: of[library].partition("+")[0]  # torch's build for processors alone is `2.13.0+cpu`
            for name, of in libraries.items()
            if library in of
        }
        if len(set(versions.values())) > 1:
            named = ", ".join(f"{name} {version}" for name, version in versions.items())
            raise BenchError(
                f"systems run on different versions of {library}, which would change their speed: {named}; make the "
                "peers' environment again with `make peers-env`"
            )


def _python(name: str, peers_python: Path) -> Path:
    """Return the Python that runs a system; a BenchError if it does not exist."""
    if not SYSTEMS[name].in_peers_environment:
        return Path(sys.executable)
    if not peers_python.is_file():
        raise BenchError(
            f"{name} is run by {peers_python}, which does not exist; make it with `make peers-env`, name another one "
            "with --peers-python, or choose peers that need none with --peer grad-cam"
        )
    return peers_python.absolute()


def check_turn(name: str, found: Mapping[str, Any], prepared: "Prepared") -> float:
    """Return the largest error of a turn's logits, as a share of their deviation; BenchError: an answer is wrong."""
    from heatline.bench.peers.prepare import OF_SPREAD, find_difference, logits_off

    job, expected = prepared.job, prepared.expected[name]
    off = logits_off(found, expected)
    wrong = f"its logits are off by {off:.2g} of their spread" if not off <= OF_SPREAD[job.precision] else None
    if wrong is None and name != ENGINE:
        wrong = find_difference(found, expected, job.precision, job.sample_px, job.score_threshold)
    if wrong is not None:
        raise BenchError(f"{name} gives wrong answers, so its time counts for nothing: {wrong}")
    return off


class Worker:
    """A process that runs one system for the duration of the `with` block, idle between its turns.

    Args:
        folder: working folder of the process, for its log and its answers.
    """

    def __init__(self, name: str, python: Path, module: str, job: Path, folder: Path) -> None:
        self.name, self._folder = name, folder
        command = (python, SERVE, module, job)
        self.process = WatchedProcess(name, command, folder / f"{name}.log", cwd=folder, pipes=True)
        self.settings: dict[str, Any] = {}
        """The fastest."""
        self.libraries: dict[str, str] = {}

    def turn(self) -> tuple[float, Mapping[str, Any]]:
        """Run all frames; return the seconds, and the answers as summed up by `serve.py`."""
        answers = self._folder / f"{self.name}.npz"
        seconds: float = self._reply(answers=str(answers))["seconds"]
        with np.load(answers) as summed_up:
            return seconds, dict(summed_up)

    def __enter__(self) -> Self:
        self.process.start()
        try:
            ready = self._reply()["ready"]
        except BenchError:
            self.process.kill()
            raise
        self.settings, self.libraries = ready["settings"], ready["libraries"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # it has nothing to save

    def _reply(self, **request: str) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n" if request else b""
        reply: dict[str, Any] = json.loads(self.process.ask(line, REPLY_WITHIN_SECONDS))
        if "error" in reply:
            raise BenchError(f"{self.name} failed: {reply['error']}")
        return reply
