"""`heatline evaluate`."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge.cli.extras import require_extra
from edge.cli.options import FiniteRange, precision_option
from edge.cli.output import json_option, print_facts, print_json
from edge.errors import InputError
from edge.inference import EngineKind, Precision
from edge.util.os_errors import writing
from edge.util.text import format_count, is_are
from train.progress import tracked
from train.readers.folder import LABELS_ONLY, TRUTHS

if TYPE_CHECKING:
    from train.evaluation.evaluate import Chosen
    from train.evaluation.result import Evaluation

NAMED = 10
"""Frames without a verdict that are named on the screen; the report and --json name more."""
EXAMPLES = """
Example:

\b
  heatline evaluate runs/pcb pcb.bundle --data pcb/ --out report
  heatline evaluate pcb.bundle --data pcb/ --group board --groups 10,12 --truth boxes
  heatline evaluate runs/* --out report --study
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of labelled pictures.  [default: a run's own]")
@click.option("--out", type=click.Path(path_type=Path), help="New folder for report.html, tables.md and all figures.")
@click.option(
    "--truth",
    "truths",
    multiple=True,
    type=click.Choice([*TRUTHS, LABELS_ONLY]),
    help="May be repeated.  [default: all there are]",
)
@click.option("--group", "column", help="Column of labels.csv that names groups.  [default: as MODEL was taught]")
@click.option("--pattern", help="Instead, a regular expression on file names, its first parenthesis the group.")
@click.option("--groups", help="Only these groups, with commas between them.")
@click.option(
    "--part",
    type=click.Choice(["test", "val", "train", "all"]),
    help="Only the groups that tested, validated or taught, as MODEL itself says.  [default: test, where the data has "
    "those groups, else all]",
)
@click.option(
    "--engine",
    type=click.Choice(["openvino", "onnxruntime"]),
    default="openvino",
    show_default=True,
    help="What runs a bundle; runs go through PyTorch.",
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
    help="Add a chapter to the report: the study's tables, ranks and published figures beside these models.",
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

    It is judged as the line judges, and its maps by the study's rule.
    A MODEL is the folder of a training, or a bundle, which is judged through the engine that will run it. With --out,
    one page shows how many defective parts each would miss and how many good parts it would reject, which ones, and
    what another threshold would do.
    """
    require_extra("train", "torch", "timm", "jinja2", "matplotlib")
    from train.evaluation.evaluate import Asked, choose, evaluate_judged, names_of
    from train.evaluation.evaluated import open_model

    if groups is not None and part is not None:
        raise click.UsageError("--groups and --part both say which groups; leave one away")
    if study and out is None:
        raise click.UsageError("--study adds a chapter to the report; name its folder with --out")
    if pattern is not None and column is not None:
        raise click.UsageError("--group and --pattern both say where groups are told; leave one away")
    asked = Asked(
        data=data,
        truths=truths or None,
        part=part,
        groups=None if groups is None else tuple(groups.split(",")),
        column=column,
        pattern=pattern,
        engine=engine,
        precision=precision,
        false_reject=false_reject,
    )
    names = names_of(models)
    evaluations = []
    with _written_whole(out) as folder:
        ready = []
        for path in models:  # all are opened first: what is wrong with the last is told before the first is run
            track = tracked(f"validation frames of {path.name}")
            judged = open_model(path, engine, precision, false_reject, track)
            ready.append((path, judged, choose(judged, asked)))
        folders = {} if folder is None else {path: folder / "models" / name for path, name in names.items()}
        for path, judged, chosen in ready:
            _warn(path, chosen)
            evaluation = evaluate_judged(judged, chosen, folders.get(path), tracked(f"frames for {path.name}"))
            evaluations.append(evaluation)
            if not as_json:
                _show(path, evaluation)
        if folder is not None:
            from train.evaluation.report.write import write_report

            write_report(list(folders.values()), folder, study=study)
    if out is not None:
        click.echo(f"the report is in {out / 'report.html'}, its tables in {out / 'tables.md'}", err=True)
    if as_json:
        print_json({"evaluations": evaluations})


@contextmanager
def _written_whole(out: Path | None) -> Iterator[Path | None]:
    """A folder to write into, which becomes `out` once all is written, and is gone if something goes wrong.

    Raises:
        InputError: `out` is taken or cannot be written.
    """
    if out is None:
        yield None
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and is not empty; name a new folder with --out")
    with writing(out):
        place = out.absolute()
        place.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            yield half
            half.chmod(0o755)
            half.rename(place)  # onto an empty folder, too
        finally:
            shutil.rmtree(half, ignore_errors=True)


def _warn(path: Path, chosen: "Chosen") -> None:
    if chosen.taught:
        click.echo(
            f"{chosen.taught} of the {format_count(len(chosen.pictures), 'picture')} {is_are(chosen.taught)} of groups "
            f"that taught {path}: leave them out "
            "with --groups, or take --part test",
            err=True,
        )


def _show(path: Path, evaluation: "Evaluation") -> None:
    told = evaluation.told
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
                f"{unplaced} of the {format_count(told.pictures, 'picture')} {is_are(unplaced)} "
                "only good or defective as a whole, as nothing says where the defect is",
                err=True,
            )
        click.echo(f"{path} on {told.data} ({told.part}), by {each.truth}")
        for title, part in (
            ("tiles, by the 1 % rule", "tile"),
            ("pixels, by the study's rule", "study"),
            ("pixels, by the line's rule", "line"),
            ("frames", "frame"),
        ):
            figures = getattr(each.figures, part)
            if figures is not None:
                facts = {
                    name: _shown(value, each.intervals.get(f"{part}.{name}"))
                    for name, value in msgspec.structs.asdict(figures).items()
                }
                print_facts(title, facts)
        click.echo(each.intervals_are, err=True)


def _shown(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "not known"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" + (f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
