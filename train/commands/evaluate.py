"""`heatline evaluate`."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
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
    from heatline.train.evaluation.result import Evaluation

NAMED = 10
"""Highest number of frames without a verdict that are printed; the report and --json name more."""
EXAMPLES = """
Example:

\b
  heatline evaluate runs/pcb pcb.bundle --data pcb/ --out report
  heatline evaluate pcb.bundle --data pcb/ --part all --truth boxes
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
    type=click.Choice([*TRUTHS, LABELS_ONLY]),
    help="Annotations to compare with.  [default: those of the training, else the first in the folder]",
)
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
    truth: str | None,
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
    if study and out is None:
        raise click.UsageError("--study adds a chapter to the report; name the report's folder with --out")
    for path in models:
        require_model(path)  # before torch is imported, so that errors are reported at once
    if data is not None:
        find_layout(data)
    with _atomic_folder(out) as folder, show_progress(f"opening {', '.join(map(str, models))}") as track:
        from heatline.train.evaluation.evaluate import EvaluationOptions, evaluate_pictures, select_pictures
        from heatline.train.evaluation.evaluated import open_model

        options = EvaluationOptions(data, truth, part, engine, precision, false_reject)
        names = _unique_names(models)
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
            f"{format_count(len(selection.images), 'picture')}: name other pictures with --data",
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
    if unplaced := evaluation.figures["frame.unplaced"]:
        click.echo(
            f"{unplaced} of the {format_count(subject.pictures, 'picture')} {is_are(int(unplaced))} only labelled good "
            "or defective, without the place of the defect",
            err=True,
        )
    from heatline.train.evaluation.result import describe_kinds

    facts = {
        **describe_kinds(evaluation),
        **_figures(evaluation),
        "score threshold": f"{evaluation.calibration.score_threshold:.2f} logits",
    }
    print_facts(f"{path} on {subject.data} ({subject.part}), by {evaluation.truth}", facts)
    click.echo(evaluation.intervals_are, err=True)


FIGURES = {
    "missed defective frames": ("frame.escape_rate", "frame.escaped_frames", "frame.defective_frames"),
    "rejected good frames": ("frame.false_reject_rate", "frame.rejected_frames", "frame.good_frames"),
    "defects hit by a peak": ("frame.hit_rate", "frame.defects_hit", "frame.defects"),
    "picture AUROC": ("frame.auroc",),
    "tile AP": ("tile.average_precision",),
    "pixel F1": ("line.f1",),
}
"""The figures that decide whether the model can be used; of a share, also those of part and whole."""


def _figures(evaluation: "Evaluation") -> dict[str, str]:
    """Return figures with their intervals."""
    of, facts = evaluation.figures, {}
    for title, (name, *counts) in FIGURES.items():
        value, interval = of.get(name), evaluation.intervals.get(name)
        counted = " of ".join(str(of[count]) for count in counts)
        if value is not None:
            ends = f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
            facts[title] = f"{counted}: {value:.4f}{ends}" if counted else f"{value:.4f}{ends}"
        elif name == "frame.false_reject_rate" and evaluation.set_threshold:
            facts[title] = f"{counted}, not a rate: {evaluation.set_threshold} of them set the threshold"
        else:
            facts[title] = "not known"
    return facts


def _unique_names(models: Sequence[Path]) -> dict[Path, str]:
    """Return a name per model: the end of its path, of as many folders as tell all models apart.

    Raises:
        InputError: two paths are one folder.
    """
    places = [path.resolve().parts for path in models]
    if len(set(places)) < len(models):
        raise InputError(f"{', '.join(map(str, models))}: two of them are one folder; name each model once")
    depth = next(depth for depth in count(1) if len({parts[-depth:] for parts in places}) == len(models))
    return {path: "-".join(parts[-depth:]) for path, parts in zip(models, places, strict=True)}
