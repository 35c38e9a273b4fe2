"""Retrains a bundle: from reviewed frames to a new bundle beside the old one, and their comparison."""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.progress import track

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.calibration.recalibration import next_in_series
from heatline.edge.cli.calibrate import SUFFIX
from heatline.edge.cli.output import progress_console
from heatline.edge.errors import InputError, Interrupted, TrainingError
from heatline.edge.util.files import writing
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import BundleName
from heatline.export.retrain.frames import MarkedFrame, select_frames
from heatline.export.retrain.judge import Answer, Comparison, Judging, compare, describe_untested, judge_frames
from heatline.export.retrain.new_bundle import FOLDER_MARK, describe_calibrations, describe_map_failure, export_next
from heatline.export.retrain.origin import Origin, origin_of
from heatline.export.retrain.plan import Plan, plan_retraining
from heatline.train.files import write_atomically
from heatline.train.fit import fit
from heatline.train.readers import LabelledFolder
from heatline.train.readers.labelled import INDEX, ReviewedFrame, write_index
from heatline.train.run import load_run

PLAN = "plan.sha256"


class RetrainingFolder:
    """The files below a folder.

    Args:
        bundle_name: name of the new bundle's folder.
    """

    def __init__(self, folder: Path, bundle_name: str) -> None:
        self.folder = folder
        self.plan = folder / PLAN
        self.reviewed = folder / "reviewed"
        self.run = folder / "run"
        self.bundle = folder / bundle_name
        self.result = folder / "result.json"

    def begin(self, plan: Plan, digest: str) -> None:
        """Copy the frames to train on, unless an interrupted retraining by the same plan has copied them.

        Args:
            digest: of the plan.
        Raises:
            InputError: the folder holds something else.
            TrainingError: it cannot be written.
        """
        if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()) and not self._has(digest)):
            raise InputError(
                f"{self.folder} holds files that no retraining with the same marks wrote; name a new folder with --out"
            )
        with writing(self.folder, TrainingError, or_else=", or name another folder with --out"):
            self.folder.mkdir(parents=True, exist_ok=True)
            # First, so that after Ctrl-C the same command recognises the folder.
            write_atomically(self.plan, lambda file: file.write_text(f"{digest}\n"))
            if not (self.reviewed / INDEX).exists():
                self._copy(plan.trained)

    def _has(self, digest: str) -> bool:
        try:
            return self.plan.read_text().strip() == digest
        except (OSError, UnicodeDecodeError):
            return False

    def _copy(self, frames: Sequence[tuple[Path, ReviewedFrame]]) -> None:
        shutil.rmtree(self.reviewed, ignore_errors=True)
        for path, row in frames:
            target = self.reviewed / row.file
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                source = path.open("rb")
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}); give the same command again") from error
            with source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        self.reviewed.mkdir(exist_ok=True)
        write_index(self.reviewed, [row for _, row in frames])  # last: a folder without it is incomplete


Item = TypeVar("Item")
SAME_PLAN_DIGITS = 8
"""Digits of the plan's digest in the name of the default folder."""


@dataclass(frozen=True)
class Request:
    """What a retraining is asked for."""

    bundle: Path
    frames: Sequence[MarkedFrame]
    where: str
    """Phrase for messages: where the frames come from."""
    judging: Judging
    share: float
    data: Path | None = None
    """The folder of the training's pictures; None: as the bundle says."""
    out: Path | None = None
    """The folder of the retraining; None: below `runs/`, by bundle and marks."""


class Retrained(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a retraining."""

    old: BundleName
    new: BundleName
    bundle: str
    """The new bundle's folder."""
    better: bool
    comparison: Comparison
    answers: list[Answer]
    trained: dict[str, int]
    """Number of reviewed frames that the new model was trained on, by their truth."""
    left_out: dict[str, int]
    """Number of marked frames that were not used, by the reason."""
    val_old: dict[str, float]
    val_new: dict[str, float]
    """Figures of both cross-validations, as in `run.json`."""
    seconds: dict[str, float]
    """Duration of each step. A step whose result was there already takes none."""
    warnings: list[str]


def retrain(request: Request, say: Callable[[str], None]) -> Retrained:
    """Train, export and compare. Only the folder of the retraining is written.

    After Ctrl-C or SIGTERM, the same request continues with what is finished.

    Args:
        say: gets lines about the work, for people.
    Raises:
        InputError: frames, training folder or bundle cannot be used.
        BundleError, ConfigError, WeightsError, TrainingError, ExportError, EngineError: as a training and an export.
        Interrupted: Ctrl-C or SIGTERM.
    """
    clock = _Clock()
    old = open_bundle(request.bundle)
    origin = origin_of(old, request.data)
    if not request.frames:
        raise InputError(f"nobody has marked a frame in {request.where}; mark verdicts on the line's page first")
    data, notes = origin.read_folder()
    former, gone = origin.read_former()
    selection = select_frames(request.frames, old.manifest.name)
    plan = plan_retraining(
        selection,
        lambda frames: judge_frames(old, frames, request.judging, _bar("judging by the old bundle")),
        data,
        [(Path(str(origin.config.reviewed)) / row.file, row) for row in former],
        origin,
        request.share,
    )
    clock.lap("read and judge")
    digest = plan.digest(old.digest, data)
    folder = RetrainingFolder(request.out or _default_out(old, digest), _next_folder(old.path))
    folder.begin(plan, digest)
    say(f"{_describe_plan(plan)}; the folder of this retraining is {folder.folder}")
    try:
        new = _train_and_export(old, origin, plan, data, folder, clock, say)
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(
            "stopped; the old bundle is as it was, and the same command continues: the extracted features can be used "
            "again"
        ) from error
    comparison, answers = _compare(new, plan, request.judging)
    clock.lap("judge by the new bundle")
    manifest = new.manifest
    reasons = list(comparison.reasons)
    if request.judging.precision not in manifest.precisions:
        precision = request.judging.precision
        reasons.append(f"it has no {precision}, in which the line computes: {manifest.why_without(precision)}")
    if (failure := describe_map_failure(old.manifest, manifest)) is not None:
        reasons.append(failure)
    comparison = msgspec.structs.replace(comparison, reasons=reasons)
    result = Retrained(
        old=_name_of(old),
        new=_name_of(new),
        bundle=str(new.path),
        better=comparison.better,
        comparison=comparison,
        answers=answers,
        trained={truth: sum(row.truth == truth for _, row in plan.trained) for truth in ("good", "defective")},
        left_out=dict(selection.left_out),
        val_old=origin.val,
        val_new=manifest.provenance["training"]["val"],
        seconds=clock.laps,
        warnings=[
            line
            for line in (
                comparison.describe_support(),
                describe_untested(answers),
                *notes,
                *gone,
                *plan.notes,
                selection.describe_left_out(),
                *describe_calibrations(old.manifest, manifest, new.path),
            )
            if line is not None
        ],
    )
    write_atomically(folder.result, lambda file: file.write_bytes(msgspec.json.format(encode_json(result)) + b"\n"))
    return result


def _train_and_export(
    old: Bundle,
    origin: Origin,
    plan: Plan,
    data: LabelledFolder,
    folder: RetrainingFolder,
    clock: "_Clock",
    say: Callable[[str], None],
) -> Bundle:
    """Train and export, as far as an interrupted retraining has not done so."""
    if folder.bundle.exists():
        return open_bundle(folder.bundle)
    compares = old.manifest.tensors.difference is not None
    config = msgspec.structs.replace(
        origin.config,
        reference=origin.config.reference if compares else "off",  # the line has no reference to judge by
        reviewed=str(folder.reviewed.resolve()),
        out=str(folder.run),
        resume=(folder.run / "config.yaml").exists(),
    )
    run = fit(config, report_line=say)
    clock.lap("train")
    bundle = export_next(old, load_run(run.folder), data, folder.bundle, plan, say)
    clock.lap("export")
    return bundle


def _compare(new: Bundle, plan: Plan, judging: Judging) -> tuple[Comparison, list[Answer]]:
    if judging.precision not in new.manifest.precisions:
        judging = replace(judging, precision="f32")
    frames = [frame for frame, _ in plan.evaluated]
    verdicts = judge_frames(new, frames, judging, _bar("judging by the new bundle"))
    answers = [
        Answer(frame=str(frame.path), truth=frame.truth, held_out=frame.digest in plan.held_out, old=was, new=now)
        for (frame, was), now in zip(plan.evaluated, verdicts, strict=True)
    ]
    return compare(answers), answers


def _describe_plan(plan: Plan) -> str:
    good = sum(row.truth == "good" for _, row in plan.trained)
    return (
        f"{len(plan.trained)} reviewed frames are trained on ({good} good, {len(plan.trained) - good} defective), "
        f"{len(plan.held_out)} are held out"
    )


def _default_out(old: Bundle, digest: str) -> Path:
    """Return a folder that the same marks have again, so that the same command continues."""
    return Path("runs") / f"{Path(_next_folder(old.path)).stem}-{digest[:SAME_PLAN_DIGITS]}"


def _next_folder(bundle: Path) -> str:
    name = bundle.resolve().name
    return next_in_series(name.removesuffix(SUFFIX), FOLDER_MARK) + SUFFIX


def _name_of(bundle: Bundle) -> BundleName:
    return BundleName(name=bundle.manifest.name, version=bundle.manifest.version, digest=bundle.digest)


def _bar(title: str) -> Callable[[Sequence[Item]], Iterable[Item]]:
    console = progress_console()
    return lambda items: track(items, title, console=console, transient=True, disable=not console.is_terminal)


class _Clock:
    """Measures the duration of steps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, step: str) -> None:
        """End a step."""
        now = time.monotonic()
        self.laps[step], self._last = round(now - self._last, 2), now
