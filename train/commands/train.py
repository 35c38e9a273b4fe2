"""`heatline train`."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from heatline.edge.cli.output import json_option, print_facts, print_json, print_table, visible
from heatline.edge.errors import ConfigError, TrainingError
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import sigterm_as_ctrl_c
from heatline.edge.util.text import format_count
from heatline.train.compose import compose, read_config, with_folder
from heatline.train.config import DenseRecipeConfig
from heatline.train.run import RunFolder, RunSummary

EXAMPLES = """
Example:

\b
  heatline train pictures
  heatline train data=hripcb truth=derived_masks split.group=board recipe=finetune \\
      split.val=[08] split.test=[10,12] recipe.steps=600 out=runs/hripcb
  heatline train out=runs/hripcb resume=true
  heatline train --products products out=runs/plant
"""


@click.command(epilog=EXAMPLES)
@click.argument("overrides", nargs=-1, metavar="[FOLDER] [KEY=VALUE]...")
@click.option(
    "--products",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Train each folder in FOLDER, a product, to a run in runs/FOLDER, or in out=.",
)
@click.option("--address", help="Ray cluster that trains the products.  [default: this machine]")
@click.option("--processors", type=click.IntRange(min=1), help="Processors per product.  [default: 2]")
@json_option
@sigterm_as_ctrl_c()
def train(
    overrides: tuple[str, ...],
    products: Path | None,
    address: str | None,
    processors: int | None,
    as_json: bool,
) -> None:
    """Train a classifier on labelled pictures.

    FOLDER holds good/ and defective/, or only good/; or images/ with masks, YOLO, COCO, VOC or LabelMe annotations or
    labels.csv; or MVTec's folders. The command finds labels and groups in FOLDER. With data=FOLDER
    it does not, and takes groups from split.group, a column of labels.csv, or split.pattern, a regular expression on
    file names. Groups are never divided, and those in split.test are left out. `heatline data show FOLDER` shows what
    is found.

    recipe=heatline, the default, trains a head on a frozen CNN in a minute, cross-validates it and writes a report.
    minutes=10 then also trains the CNN's later stages for the rest of ten minutes, and keeps what is better, also after
    Ctrl-C.
    recipe=finetune and study train the whole network; groups in split.val choose the best checkpoint.

    model=... (see `heatline models`), and recipe=... each choose a file in train/configs; other keys set
    values. After Ctrl-C or SIGTERM, resume=true continues: recipe=heatline after its last round, or with the features
    that are already extracted.
    --json prints the run's summary.

    With --products, many products are trained at once, by recipe=heatline, and the worst is printed first. If one
    fails, the others continue. The same command, given again, continues. FOLDER and the runs must have the same path on
    all machines of a cluster.
    """
    require_extra("train")
    if products is not None:
        _train_products(products, overrides, address, processors, as_json)
        return
    if address is not None or processors is not None:
        raise click.UsageError("--address and --processors belong to --products")
    config = compose(_with_folder(overrides))  # before torch is imported, so that errors are reported at once
    if not config.resume:  # a finished run needs none
        find_layout(Path(config.data))
    from heatline.train.fit import fit

    run = fit(config, report_line=lambda line: click.echo(line, err=True))
    summary = run.read_summary()
    if as_json:
        print_json({"run": str(run.folder), **msgspec.structs.asdict(summary)})
        return
    print_facts(f"{run.folder}: {summary.model} by recipe {summary.recipe}", _facts(summary, run.folder))


def _train_products(
    folder: Path, overrides: Sequence[str], address: str | None, processors: int | None, as_json: bool
) -> None:
    """Train the products of a folder, and print their table; an error has their kind if all failed in one way."""
    require_extra("cluster")
    from heatline.train.products import COLUMNS, TEXTS, cells_of, train_products

    results, errors = train_products(
        folder, overrides, lambda line: click.echo(visible(line), err=True), address, processors
    )
    if as_json:
        print_json({"products": msgspec.to_builtins(results)})
    else:
        print_table(COLUMNS, map(cells_of, results), numbers=[name for name in COLUMNS if name not in TEXTS])
    if errors:
        name, first = next(iter(errors.items()))
        kinds = {type(error) for error in errors.values()}
        kind = kinds.pop() if len(kinds) == 1 else TrainingError
        others = f", and {format_count(len(errors) - 1, 'other product')}" if len(errors) > 1 else ""
        raise kind(f"{name} failed ({first}){others}; correct that, then give the same command again")


def _with_folder(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with the folder of pictures, an argument without `=`, as a key."""
    folders = [item for item in overrides if "=" not in item]
    if not folders:
        return list(overrides)
    if len(folders) > 1 or any(item.startswith("data=") for item in overrides):
        raise ConfigError(f"{' '.join(overrides)!r} names several folders of pictures; train on one of them")
    return with_folder([item for item in overrides if item != folders[0]], folders[0])


def _facts(summary: RunSummary, folder: Path) -> dict[str, str]:
    val = summary.val
    if not summary.groups["val"]:
        where = (
            f"no cross-validation, and no report: {summary.not_validated or 'another version trained it'}"
            if summary.folds is None
            else f"{summary.folds}-fold cross-validation over {len(summary.groups['train'])} groups"
        )
        names = {"val_picture_auroc": "picture AUROC", "val_ap": "tile AP"}
        escapes, found = _verdicts(summary, folder) if summary.folds is not None else ({}, {})
        return {
            **escapes,
            "figures": where,
            **found,
            **{name: f"{val[key]:.3f}" for key, name in names.items() if key in val},
            "features": "from the cache" if summary.tiles_per_s is None else f"{summary.tiles_per_s:.0f} tiles/s",
            "time": f"{summary.seconds:.0f} s",
            "next": f"heatline export {folder} --to BUNDLE",
        }
    return {
        "best": f"step {summary.best_step} of {summary.steps}",
        "validation groups": ", ".join(summary.groups["val"]),
        "tile AP, all": f"{val['val_ap']:.3f}",
        "tile AUROC, all": f"{val['val_auroc']:.3f}",
        "accuracy": f"{val['val_accuracy']:.3f} (always the majority: {val['val_majority_share']:.3f})",
        "precision": summary.precision,
        "time": f"{summary.seconds:.0f} s",
        "next": f"heatline export {folder} --to BUNDLE",
    }


def _verdicts(summary: RunSummary, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the first figures of the report, cross-validated: what escapes, and the others."""
    from heatline.edge.cli.bundle_formatting import describe_bound
    from heatline.train.evaluation.result import describe_kinds, read_evaluation
    from heatline.train.evaluation.run_report import describe_doubtful

    evaluation, config = read_evaluation(RunFolder(folder).report), read_config(RunFolder(folder).config)
    found, of = {}, evaluation.figures
    missed, defective = of["frame.escaped_frames"], of["frame.defective_frames"]
    if defective:
        found["missed"] = f"{missed} of {format_count(int(defective), 'defective picture')}"
    recipe = config.recipe
    is_frozen = isinstance(recipe, DenseRecipeConfig) and not (config.minutes or recipe.finetune_steps)
    if missed and is_frozen and summary.labelled == "tiles":  # only measured with marked defects
        found["to try"] = "minutes=10, which often finds more"
    if doubtful := describe_doubtful(evaluation):
        found["to look at"] = doubtful
    if of["frame.good_frames"]:
        found["rejected good pictures"] = describe_bound(evaluation.calibration)
    return describe_kinds(evaluation), found
