"""`heatline evaluate`."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatline.edge.cli.output import FiniteRange, json_option, precision_option, print_facts, print_json
from heatline.edge.errors import InputError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.extras import require_extra
from heatline.train.files import make_folder
from heatline.train.progress import tracked
from heatline.train.readers.folder import LABELS_ONLY, TRUTHS
from heatline.train.run import require_model

if TYPE_CHECKING:
    from heatline.train.evaluation.result import Evaluation

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
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists already and is not empty; name a new folder with --out")
    click.echo(f"opening {', '.join(map(str, models))}", err=True)
    from heatline.train.evaluation.evaluate import evaluate_pictures, select_pictures
    from heatline.train.evaluation.evaluated import open_model

    names = _unique_names(models)
    opened = []
    for path in models:  # all are opened first, so that an error of the last is reported before the first is run
        model = open_model(path, engine, precision, false_reject, tracked(f"thresholds of {path.name}"))
        opened.append((path, model, select_pictures(model, data, truth, part)))
    folders = {path: make_folder(out / "models" / name, "--out") for path, name in names.items()} if out else {}
    evaluations = [
        evaluate_pictures(model, selection, folders.get(path), tracked(f"pictures of {path.name}"))
        for path, model, selection in opened
    ]
    hint = "" if as_json else "--out FOLDER writes a report with all figures, --json prints them"
    if out is not None:
        from heatline.train.evaluation.report import write_report

        page, tables = write_report(list(folders.values()), out, study=study)
        hint = f"the report is in {page}, its tables in {tables}, all figures of each model in {out / 'models'}"
    if as_json:
        print_json({"evaluations": evaluations})
    else:
        for path, evaluation in zip(models, evaluations, strict=True):
            _print(path, evaluation)
    if hint:
        click.echo(hint, err=True)


def _print(path: Path, evaluation: "Evaluation") -> None:
    """Print the figures that decide whether the model can be used, with what makes them worth less."""
    from heatline.train.evaluation.result import describe_kinds
    from heatline.train.evaluation.rows import Row, StoredEvaluation, describe_row

    facts = {
        **describe_kinds(evaluation),
        **describe_row(Row(path.name, (StoredEvaluation(evaluation, path),))),
        "score threshold": f"{evaluation.calibration.score_threshold:.2f} logits",
    }
    print_facts(f"{path} on {evaluation.subject.data} ({evaluation.subject.part}), by {evaluation.truth}", facts)
    for warning in evaluation.warnings:
        if warning != facts.get("escapes"):
            click.echo(f"{path}: {warning}", err=True)
    click.echo(evaluation.intervals_are, err=True)


def _unique_names(models: Sequence[Path]) -> dict[Path, str]:
    """Return a name per model: as much of the end of its path as tells all apart; an InputError if two are one."""
    places = [path.resolve().parts for path in models]
    if len(set(places)) < len(models):
        raise InputError(f"{', '.join(map(str, models))}: two of them are one folder; name each model once")
    depth = next(depth for depth in count(1) if len({parts[-depth:] for parts in places}) == len(models))
    return {path: "-".join(parts[-depth:]) for path, parts in zip(models, places, strict=True)}
