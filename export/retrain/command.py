"""`heatline retrain`."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatline.edge.cli.output import FiniteRange, Rows, json_option, print_report, print_warnings, progress_console
from heatline.edge.config import LineConfig, load_config
from heatline.edge.describe import describe_bundle
from heatline.edge.errors import InputError
from heatline.edge.monitor.store import EvidenceStore, evidence_of
from heatline.edge.target import file_of
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from heatline.export.retrain.retrain import Retrained

NOT_BETTER = 22
"""Exit code of a retraining that is finished, but whose bundle is not offered: an answer, not an error."""

RATES = {
    "false_alarms": "false alarms, held out",
    "missed": "missed, held out",
    "no_verdict": "no verdict, held out",
    "finds": "finds kept, all reviewed",
}
FIGURES = {"val_picture_auroc": "picture AUROC, cross-validated", "val_ap": "tile AP, cross-validated"}
EXAMPLES = """
Example:

\b
  heatline retrain line1
  heatline retrain --reviewed marked-frames --bundle boards.bundle --data pictures
"""


@click.command(epilog=EXAMPLES)
@click.argument("line", required=False)
@click.option("--product", help="The line's product whose bundle is retrained. Default: the one in its file.")
@click.option(
    "--reviewed",
    type=click.Path(path_type=Path),
    help="Instead of LINE: a folder that heatline evidence export --reviewed wrote.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="With --reviewed: the bundle that is retrained.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The folder of pictures that the bundle was trained on. Default: where it was then.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the retraining. Default: in runs/, by the bundle's name and the time.",
)
@click.option(
    "--hold-out",
    "share",
    type=FiniteRange(min=0, max=0.9),
    default=round(1 / 3, 2),
    show_default=True,
    help="Share of the reviewed frames of each kind that are not trained on, to compare both bundles.",
)
@json_option
@sigterm_as_ctrl_c()
def retrain(
    line: str | None,
    product: str | None,
    reviewed: Path | None,
    bundle: Path | None,
    data: Path | None,
    out: Path | None,
    share: float,
    as_json: bool,
) -> None:
    """Train a bundle again with the frames that people have marked, and offer the new one if it is better.

    LINE is a line's name or its TOML file. Its bundle is trained again by the same settings on its training folder and
    on reviewed frames of the evidence store. Some reviewed frames are held out; old and new bundle are compared on
    them. If the new one is better, the commands are printed that activate it, and that go back. Nothing else
    changes: the line goes on with its bundle.

    After Ctrl-C or SIGTERM, give the command again with a new --out. The exit code is 22 if the new
    bundle is not better.
    """
    require_extra("export")
    from heatline.edge.bundle import open_bundle
    from heatline.export.retrain.frames import frames_of_folder, frames_of_store
    from heatline.export.retrain.judge import Judging
    from heatline.export.retrain.retrain import retrain as run_retraining

    if product is not None and line is None:
        raise click.UsageError("--product belongs to LINE; leave it out with --reviewed")
    config: LineConfig | None = None
    if line is not None and reviewed is None and bundle is None:
        config = load_config(file_of(line))
        config = config.of_product(config.product if product is None else product)
        store, bundle = EvidenceStore(evidence_of(line)), config.require_bundle()
        frames, where, judging = frames_of_store(store), store.folder, Judging.of_line(config)
    elif line is None and reviewed is not None and bundle is not None:
        frames, where = frames_of_folder(reviewed), reviewed
        judging = Judging.of_frames(frames, open_bundle(bundle))
    else:
        raise click.UsageError("name either LINE, or --reviewed FOLDER together with --bundle BUNDLE")
    if not frames:
        raise InputError(
            f"nobody has marked a frame in {where} whose picture is still there; mark verdicts on the line's page first"
        )

    report_line = partial(progress_console().print, style="dim", highlight=False, markup=False)
    result = run_retraining(bundle, frames, judging, share, data, out, report_line)
    print_warnings(result.warnings)
    commands = _commands(line, config, bundle, Path(result.bundle)) if result.better else {}
    notes = [f"bundle  {result.bundle}", *(f"{purpose}\n  {command}" for purpose, command in commands.items())]
    if not result.better:
        notes.append(f"not better, and not offered: {'; '.join(result.comparison.reasons)}")
    print_report(
        {"result": result, "commands": [*commands.values()]}, as_json, "", rows=_side_by_side(result), notes=notes
    )
    if not result.better:
        click.get_current_context().exit(NOT_BETTER)


def _side_by_side(result: "Retrained") -> Rows:
    old, new = result.comparison.old, result.comparison.new
    rows = [(name, str(getattr(old, key)), str(getattr(new, key))) for key, name in RATES.items()]
    rows += [
        (name, f"{result.val_old[key]:.3f}", f"{result.val_new[key]:.3f}")
        for key, name in FIGURES.items()
        if key in result.val_old and key in result.val_new
    ]
    return Rows(("", f"old: {describe_bundle(result.old)}", f"new: {describe_bundle(result.new)}"), rows)


def _commands(line: str | None, config: LineConfig | None, old: Path, new: Path) -> dict[str, str]:
    """Return the commands that activate the new bundle, and the old one again, by their purpose."""
    if line is None or config is None:
        return {
            "copy it to the line PC, and activate it there:": f"heatline reload LINE --bundle {shlex.quote(new.name)}",
            "to go back:": f"heatline reload LINE --bundle {shlex.quote(old.resolve().name)}",
        }
    has_own = any(each.name == config.product and each.bundle for each in config.products)
    of_product = f" --product {shlex.quote(str(config.product))}" if has_own else ""
    paths = {"to activate it:": shlex.quote(str(new.absolute())), "to go back:": shlex.quote(str(old.absolute()))}
    commands = {
        purpose: f"heatline reload {shlex.quote(line)} --bundle {path}{of_product}" for purpose, path in paths.items()
    }
    if config.allow_unsigned:
        return commands
    sign = f"heatline bundle sign {paths['to activate it:']} --key KEY"
    return {"the line accepts only signed bundles; sign it first:": sign, **commands}
