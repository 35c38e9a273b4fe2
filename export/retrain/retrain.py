"""Retrains a bundle: from reviewed frames to a new bundle beside the old one, and their comparison."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.calibration.recalibration import next_in_series
from heatline.edge.cli.calibrate import SUFFIX
from heatline.edge.cli.output import make_empty
from heatline.edge.errors import Interrupted, TrainingError
from heatline.edge.util.files import writing
from heatline.edge.util.text import encode_json, format_count
from heatline.edge.wire.events import BundleName
from heatline.export.retrain.frames import MarkedFrame, UsableFrame, select_frames
from heatline.export.retrain.judge import Answer, Comparison, Judged, Judging, compare, judge_frames
from heatline.export.retrain.new_bundle import FOLDER_MARK, describe_calibrations, export_next, failed_map_checks
from heatline.export.retrain.plan import Origin, Plan, origin_of, plan_retraining
from heatline.train.files import write_atomically
from heatline.train.fit import fit
from heatline.train.readers import LabelledFolder
from heatline.train.readers.labelled import write_index
from heatline.train.run import load_run

FEW = 20
"""With fewer held-out frames, the result says how little they show."""


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
    val_old: dict[str, float]
    val_new: dict[str, float]
    """Figures of both cross-validations, as in `run.json`."""
    warnings: list[str]


def retrain(
    bundle: Path,
    marked: Sequence[MarkedFrame],
    judging: Judging,
    share: float,
    data: Path | None,
    out: Path | None,
    say: Callable[[str], None],
) -> Retrained:
    """Train, export and compare. Only the folder of the retraining is written.

    Args:
        share: of the groups of each kind that are held out.
        data: the folder of the training's pictures; None: as the bundle says.
        out: the folder of the retraining; None: below `runs/`, by the bundle's name and the time.
    Raises:
        HeatlineError: frames, training folder or bundle cannot be used, or as a training and an export.
    """
    old = open_bundle(bundle)
    origin = origin_of(old, data)
    pictures = origin.read_folder()
    former, gone = origin.read_former()
    selection = select_frames(marked, old.manifest.name)

    def judge(frames: Sequence[UsableFrame]) -> list[Judged]:
        return judge_frames(old, frames, judging, "judging by the old bundle")

    plan = plan_retraining(selection, judge, pictures, former, origin, share)
    for hint in plan.hints:
        say(f"warning: {hint}")
    name = next_in_series(old.path.resolve().name.removesuffix(SUFFIX), FOLDER_MARK)
    folder = out or Path("runs") / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with writing(folder, TrainingError, or_else=", or name another folder with --out"):
        make_empty(folder, "--out")
        for path, row in plan.trained:
            (folder / "reviewed" / row.file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "reviewed" / row.file)
        write_index(folder / "reviewed", [row for _, row in plan.trained])
    trained = {truth: sum(row.truth == truth for _, row in plan.trained) for truth in ("good", "defective")}
    say(
        f"{len(plan.trained)} reviewed frames are trained on ({trained['good']} good, {trained['defective']} "
        f"defective), {len(plan.held_out)} are held out; the folder of this retraining is {folder}"
    )
    try:
        new = train_and_export(old, origin, plan, pictures, folder, f"{name}{SUFFIX}", say)
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(
            "stopped; the old bundle is as it was: give the command again, with a new folder if it has --out; the "
            "extracted features are used again"
        ) from error
    comparison, answers = _compare(old, new, plan, judging)
    few = (
        f"{format_count(comparison.held_out, 'frame')} that neither bundle was trained on cannot show much: look at "
        "the intervals, and review more frames"
    )
    warnings = [few if comparison.held_out < FEW else None, gone, plan.note, selection.left_out, *plan.hints]
    warnings += describe_calibrations(old.manifest, new.manifest, new.path)
    result = Retrained(
        old=_name_of(old),
        new=_name_of(new),
        bundle=str(new.path),
        better=not comparison.reasons,
        comparison=comparison,
        answers=answers,
        trained=trained,
        val_old=origin.recorded.training.val,
        val_new=new.manifest.provenance["training"]["val"],
        warnings=[sentence for sentence in warnings if sentence is not None],
    )
    write_atomically(
        folder / "result.json", lambda file: file.write_bytes(msgspec.json.format(encode_json(result)) + b"\n")
    )
    return result


def train_and_export(
    old: Bundle,
    origin: Origin,
    plan: Plan,
    pictures: LabelledFolder,
    folder: Path,
    name: str,
    say: Callable[[str], None],
) -> Bundle:
    """Train a model in the folder of the retraining, and export it there as the bundle of this name."""
    compares = old.manifest.tensors.difference is not None
    config = msgspec.structs.replace(
        origin.config,
        reference=origin.config.reference if compares else "off",  # the line has no reference to judge by
        reviewed=str((folder / "reviewed").resolve()),
        out=str(folder / "run"),
        resume=False,
    )
    run = fit(config, report_line=say)
    return export_next(old, load_run(run.folder), pictures, folder / name, plan, say)


def _compare(old: Bundle, new: Bundle, plan: Plan, judging: Judging) -> tuple[Comparison, list[Answer]]:
    precision, manifest, reasons = judging.engine.precision, new.manifest, []
    if precision not in manifest.precisions:
        reasons.append(f"it has no {precision}, in which the line computes: {manifest.why_without(precision)}")
        judging = replace(judging, engine=msgspec.structs.replace(judging.engine, precision="f32"))
    if not failed_map_checks(old.manifest):
        reasons += failed_map_checks(manifest)
    frames = [frame for frame, _ in plan.evaluated]
    verdicts = [each.verdict for each in judge_frames(new, frames, judging, "judging by the new bundle")]
    answers = [
        Answer(frame=str(frame.path), truth=frame.truth, held_out=frame.digest in plan.held_out, old=was, new=now)
        for (frame, was), now in zip(plan.evaluated, verdicts, strict=True)
    ]
    comparison = compare(answers)
    return msgspec.structs.replace(comparison, reasons=[*comparison.reasons, *reasons]), answers


def _name_of(bundle: Bundle) -> BundleName:
    return BundleName(name=bundle.manifest.name, version=bundle.manifest.version, digest=bundle.digest)
