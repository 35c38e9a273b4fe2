"""`heatline evaluate`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatline.edge.cli.output import FiniteRange, json_option, precision_option, print_facts, print_json
from heatline.edge.errors import InputError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import writing
from heatline.edge.util.text import format_count, is_are
from heatline.train.progress import show_progress
from heatline.train.readers.folder import LABELS_ONLY, TRUTHS
from heatline.train.run import require_model

if TYPE_CHECKING:
    from heatline.train.evaluation.evaluate import SelectedPictures
    from heatline.train.evaluation.result import Evaluation, TruthEvaluation

NAMED = 10
"""Highest number of frames without a verdict that are printed; the report and --json name more."""
EXAMPLES = """
Example:

\b
  heatline evaluate runs/pcb pcb.bundle --data pcb/ --out report
  heatline evaluate pcb.bundle --data pcb/ --group board --groups 10,12 --truth boxes
  heatline evaluate runs/* --out report --study
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of labelled pictures.  [default: that of the run]"
)
@click.option("--out", type=click.Path(path_type=Path), help="New folder for report.html, tables.md and all figures.")
@click.option(
    "--truth",
    "truths",
    multiple=True,
    type=click.Choice([*TRUTHS, LABELS_ONLY]),
    help="Annotations to compare with; may be repeated.  [default: all in the folder]",
)
@click.option("--group", "column", help="Column of labels.csv that names groups.  [default: as in the training]")
@click.option("--pattern", help="Instead, a regular expression on file names; its first parenthesis is the group.")
@click.option("--groups", help="Only these groups, separated by commas.")
@click.option(
    "--part",
    type=click.Choice(["test", "val", "train", "all"]),
    help="Only the groups that MODEL names for this part of its training.  [default: test, if the data has those "
    "groups, else all]",
)
@click.option(
    "--engine",
    type=click.Choice(["openvino", "onnxruntime"]),
    default="openvino",
    show_default=True,
    help="Engine of a bundle; a run uses PyTorch.",
)
@precision_option
@click.option(
    "--false-reject",
    type=FiniteRange(min=0, max=1, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of good frames that the thresholds of a run may reject; a bundle has its own thresholds.",
)
@click.option(
    "--study",
    is_flag=True,
    help="Add a chapter to the report: the study's tables, ranks and published figures, compared with these models.",
)
@json_option
def evaluate(
    models: tuple[Path, ...],
    data: Path | None,
    out: Path | None,
    truths: tuple[str, ...],
    column: str | None,
    pattern: str | None,
    groups: str | None,
    part: str | None,
    engine: EngineKind,
    precision: Precision,
    false_reject: float,
    study: bool,
    as_json: bool,
) -> None:
    """Compare what each MODEL finds with known defects.

    Verdicts are those of the line; maps are also evaluated by the study's rule.
    A MODEL is the folder of a training, or a bundle, which is run by the engine of the line. With --out, a page
    shows how many defective parts each would miss and how many good parts it would reject, which parts these are, and
    the effect of another threshold.
    """
    require_extra("train")
    if groups is not None and part is not None:
        raise click.UsageError("--groups and --part both select groups; leave one out")
    if study and out is None:
        raise click.UsageError("--study adds a chapter to the report; name the report's folder with --out")
    if pattern is not None and column is not None:
        raise click.UsageError("--group and --pattern both name the source of groups; leave one out")
    for path in models:
        require_model(path)  # before torch is imported, so that errors are reported at once
    if data is not None:
        find_layout(data)
    with _atomic_folder(out) as folder, show_progress(f"opening {', '.join(map(str, models))}") as track:
        from heatline.train.evaluation.evaluate import (
            EvaluationOptions,
            evaluate_pictures,
            select_pictures,
            unique_names,
        )
        from heatline.train.evaluation.evaluated import open_model

        options = EvaluationOptions(
            data=data,
            truths=truths or None,
            part=part,
            groups=None if groups is None else tuple(name.strip() for name in groups.split(",")),
            column=column,
            pattern=pattern,
            engine=engine,
            precision=precision,
            false_reject=false_reject,
        )
        names = unique_names(models)
        opened = []
        for path in models:  # all are opened first, so that an error of the last is reported before the first is run
            model = open_model(path, engine, precision, false_reject, track(f"thresholds of {path.name}"))
            opened.append((path, model, select_pictures(model, options)))
        folders = {} if folder is None else {path: folder / "models" / name for path, name in names.items()}
        evaluations = []
        for path, model, selection in opened:
            _warn_of_training_pictures(path, selection)
            evaluations.append(
                evaluate_pictures(model, selection, folders.get(path), track(f"pictures of {path.name}"))
            )
        if folder is not None:
            from heatline.train.evaluation.report import write_report

            write_report(list(folders.values()), folder, study=study)
    if not as_json:
        for path, evaluation in zip(models, evaluations, strict=True):
            _print(path, evaluation)
    if out is not None:
        click.echo(
            f"the report is in {out / 'report.html'}, its tables in {out / 'tables.md'}, all figures of each model in "
            f"{out / 'models'}",
            err=True,
        )
    elif not as_json:
        click.echo("--out FOLDER writes a report with all figures, --json prints them", err=True)
    if as_json:
        print_json({"evaluations": evaluations})


@contextmanager
def _atomic_folder(out: Path | None) -> Iterator[Path | None]:
    """Yield a folder to write into. What it holds is in `out` at the end; `out` stays empty on an error.

    Raises:
        InputError: `out` exists and is not empty, or cannot be written.
    """
    if out is None:
        yield None
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and is not empty; name a new folder with --out")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=out) as partial:
            yield Path(partial)
            for entry in list(Path(partial).iterdir()):
                entry.rename(out / entry.name)


def _warn_of_training_pictures(path: Path, selection: "SelectedPictures") -> None:
    if selection.trained_on:
        click.echo(
            f"{path} was trained on the groups of at least {selection.trained_on} of the "
            f"{format_count(len(selection.pictures), 'picture')}: leave them out with --groups, or name other "
            "pictures with --data",
            err=True,
        )


def _print(path: Path, evaluation: "Evaluation") -> None:
    subject = evaluation.subject
    if evaluation.implausible:
        defective = sum(frame.defective for frame in evaluation.implausible)
        total = len(evaluation.implausible) + len(evaluation.frames)
        facts = {frame.image: frame.why for frame in evaluation.implausible[:NAMED]}
        if (more := len(evaluation.implausible) - NAMED) > 0:
            facts["and"] = f"{more} more"
        print_facts(
            f"no verdict: {len(evaluation.implausible)} of {format_count(total, 'frame')} (good "
            f"{len(evaluation.implausible) - defective}, defective {defective}), counted in no figure",
            facts,
        )
    for each in evaluation.truths:
        unplaced = each.figures.frame.unplaced
        if unplaced:
            click.echo(
                f"{unplaced} of the {format_count(subject.pictures, 'picture')} {is_are(unplaced)} only labelled good "
                f"or defective, without the place of the defect ({each.truth})",
                err=True,
            )
    truths = " and ".join(each.truth for each in evaluation.truths)
    print_facts(f"{path} on {subject.data} ({subject.part}), by {truths}", _facts(evaluation))
    for sentence in dict.fromkeys(each.intervals_are for each in evaluation.truths):
        click.echo(sentence, err=True)


def _facts(evaluation: "Evaluation") -> dict[str, str]:
    """Return the figures that decide whether the model can be used; those that all truths share, once."""
    from heatline.train.evaluation.result import describe_kinds

    by_truth = {each.truth: _figures(each, evaluation.set_threshold) for each in evaluation.truths}
    first = next(iter(by_truth.values()))
    figures: dict[str, str] = {}
    for name, value in first.items():
        if all(each[name] == value for each in by_truth.values()):
            figures[name] = value
        else:
            figures |= {f"{name}, by {truth}": each[name] for truth, each in by_truth.items()}
    return {
        **describe_kinds(evaluation),
        **figures,
        "score threshold": f"{evaluation.calibration.score_threshold:.2f} logits",
    }


def _figures(found: "TruthEvaluation", set_threshold: int) -> dict[str, str]:
    """Return figures with their intervals.

    Args:
        set_threshold: number of good frames that set the threshold, so that their rejects are not a rate.
    """
    frame, tile, line = found.figures.frame, found.figures.tile, found.figures.line

    def described(name: str, value: float | None, counted: str = "") -> str:
        if value is None:
            return "not known"
        low_high = found.intervals.get(name)
        return f"{counted}{value:.4f}" + (f"  [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else "")

    missed = f"{frame.escaped_frames} of {frame.defective_frames}: "
    rejected = f"{frame.rejected_frames} of {frame.good_frames}"
    return {
        "missed defective frames": described("frame.escape_rate", frame.escape_rate, missed),
        "rejected good frames": f"{rejected}, not a rate: {set_threshold} of them set the threshold"
        if set_threshold
        else described("frame.false_reject_rate", frame.false_reject_rate, f"{rejected}: "),
        "defects hit by a peak": described(
            "frame.hit_rate", frame.hit_rate, f"{frame.defects_hit} of {frame.defects}: "
        ),
        "picture AUROC": described("frame.auroc", frame.auroc),
        "tile AP": described("tile.average_precision", None if tile is None else tile.average_precision),
        "pixel F1": described("line.f1", None if line is None else line.f1),
    }
