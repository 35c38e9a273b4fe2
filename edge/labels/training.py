"""Trains on the pictures of a folder, for its page: `heatline train`, then `heatline export`, at the lowest priority.
If the page ends, they go on, and it knows no more of them than what they write. Also reads what a training says of the
pictures: the scores of its cross-validation, where each was judged by a head that was not trained on its group.
"""

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from heatline.edge.errors import ConfigError, InputError
from heatline.edge.labels.folder import LabelFolder, label_of
from heatline.edge.util.child_process import describe_end
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import NamedThread
from heatline.edge.util.text import format_count, utf8_safe
from heatline.edge.wire.events import StepKind

RUNS = "runs"
LINES_KEPT = 12
Note = Callable[[StepKind, str | None, str], object]
"""Is told what a person did: step, name and a sentence."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class TrainState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the training is that was started last."""

    by: str | None = None
    """Who started it; null: nobody did since the page is served."""
    doing: str | None = None
    """"train" or "export"; null: it has ended."""
    lines: list[str] = []
    """The last lines that it printed."""
    fault: str | None = None
    """Why it gave no bundle, as a sentence."""
    bundle: str | None = None
    """Path of what it gave."""


class Training:
    """The training of a folder; one at a time. The folder `runs` gets a run and a bundle of each; `note` is told who
    began and stopped it, and how it ended.
    """

    def __init__(self, folder: LabelFolder, runs: Path, note: Note) -> None:
        self._folder, self._runs, self._note = folder, runs, note
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._state = TrainState()
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()
        self.run: Path | None = None
        """Folder of the last run."""

    @property
    def report(self) -> Path:
        """Folder of its report."""
        return (self.run or self._runs) / "report"

    def state(self) -> TrainState:
        """Return how far it is. Any thread."""
        return msgspec.structs.replace(self._state, lines=[*self._lines])

    def start(self, minutes: int, by: str) -> None:
        """Start a training. A ConfigError: another one is running, or no picture is labelled. A MissingExtraError: this
        machine has no heatline that trains.
        """
        require_extra("train")
        require_extra("export")
        labels = {picture.label for picture in self._folder.pictures().values()}
        with self._starting:
            if self._state.doing is not None:
                raise ConfigError("a training is running; wait for its end, or stop it")
            if "good" not in labels:
                raise ConfigError("no picture is labelled as good; label some, then train")
            self._lines.clear()
            self._state = TrainState(by=by, doing="train")
            NamedThread("training", self._work, minutes, by).start()
        self._note("training", by, f"{format_count(minutes, 'minute')} for {self._folder.folder.resolve()}")

    def stop(self, by: str) -> None:
        """End the training, with the best result so far if there is one."""
        if self._process is not None:
            self._process.terminate()
            self._note("stopped", by, "the training ends with its best result so far")

    def _work(self, minutes: int, by: str) -> None:
        name = f"{self._folder.folder.resolve().name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self.run, bundle = self._runs / name, self._runs / f"{name}.bundle"
        code = self._call("train", str(self._folder.folder), f"minutes={minutes}", f"out={self.run}")
        if (self.run / "run.json").exists():  # also of a training that was stopped
            self._state = TrainState(by=by, doing="export")
            code = self._call("export", str(self.run), "--to", str(bundle), "--fast")
        last = self._lines[-1] if self._lines else f"it {describe_end(code)}"
        has_bundle = bundle.exists()
        self._state = TrainState(by=by, bundle=str(bundle)) if has_bundle else TrainState(by=by, fault=last)
        self._note("trained", by, str(bundle) if has_bundle else last)

    def _call(self, *arguments: str) -> int:
        """Run a command to its end; return its exit code."""
        self._process = subprocess.Popen(  # the page has the lowest priority, and so have its children
            [sys.executable, "-P", "-m", "heatline.edge.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.extend([text] if (text := COLOURS.sub("", line).strip()) else [])
        return self._process.wait()


class _Frame(msgspec.Struct):
    image: str
    score: float
    threshold: float | None = None


class _Calibration(msgspec.Struct):
    score_threshold: float


class _Evaluation(msgspec.Struct):
    """What is read of a run's `report/evaluation.json`."""

    frames: list[_Frame]
    calibration: _Calibration


def newest_run(folder: Path) -> Path | None:
    """Return the newest run that was trained on a folder and has a report, here or beside the folder; None: none."""
    found = [
        (each.stat().st_mtime_ns, run)
        for runs in (Path(), folder.resolve().parent)
        for each in runs.glob(f"{RUNS}/*/report/evaluation.json")
        if (run := each.parents[1]) and _is_of(run / "config.yaml", folder)
    ]
    return max(found)[1] if found else None


def read_scores(run: Path) -> dict[str, float]:
    """Return by how much the score of each picture, by its name in a `LabelFolder`, is above the threshold; an
    InputError if the run has no report that can be read.
    """
    file = run / "report" / "evaluation.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file} cannot be read ({error}); name the folder of a finished heatline train") from error
    scores = {}
    for frame in found.frames:
        parts = Path(frame.image).parts
        name = "/".join(parts[1:] if label_of(parts) else parts)
        limit = found.calibration.score_threshold if frame.threshold is None else frame.threshold
        scores[utf8_safe(name)] = frame.score - limit
    return scores


def _is_of(config: Path, folder: Path) -> bool:
    """Return whether a run's settings name a folder of pictures."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.startswith("data:") and line[5:].strip(" '\"") == str(folder.resolve()) for line in lines)
