"""Train and export, like the commands of these names. They need the extras `train` and `export`."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal


def train_model(
    folder: str | os.PathLike[str],
    *settings: str,
    out: str | os.PathLike[str],
    say: Callable[[str], None] = print,
) -> Path:
    """Train a classifier on a folder of labelled pictures, cross-validate it and write a report.

        run = heatline.train_model("boards", "recipe.folds=3", out="runs/boards")

    Args:
        folder: labels and groups are found in it, as by `heatline train FOLDER`.
        settings: `KEY=VALUE`, as for the command; docs/training.md lists the keys.
        out: a new folder for the run; with the setting `resume=true`, the folder of a run to continue.
        say: called with each line of progress.
    Returns:
        The run's folder: `run.json` has its figures, `report/index.html` the report.
    Raises:
        MissingExtraError: the extra `train` is not installed; the message says how to install it.
        ConfigError, InputError, WeightsError, TrainingError: settings, pictures, weights or the training itself.
        Interrupted: Ctrl-C; the training can be continued.
    """
    from heatline.edge.util.extras import require_extra

    require_extra("train")
    from heatline.train.compose import compose, with_folder
    from heatline.train.fit import fit

    return fit(compose(with_folder([f"out={out}", *settings], str(folder))), report_line=say).folder


def export_bundle(
    run: str | os.PathLike[str],
    *,
    to: str | os.PathLike[str],
    name: str | None = None,
    version: str = "1",
    false_reject: float = 0.01,
    precisions: Collection[Literal["f32", "bf16", "int8"]] = ("f32", "bf16", "int8"),
    say: Callable[[str], None] = print,
) -> Path:
    """Export a training's folder as a bundle: one graph with classifier and map, verified and calibrated.

        bundle = heatline.export_bundle("runs/boards", to="boards.bundle")

    Args:
        to: the new bundle's folder.
        name: the bundle's name; default: the folder's.
        false_reject: share of good frames that the thresholds may reject, 0 to 1.
        precisions: precisions to try. f32 is always exported; others are left out if they fail their gate.
        say: called with each line of progress.
    Returns:
        The bundle's folder.
    Raises:
        MissingExtraError: the extra `export` is not installed; the message says how to install it.
        InputError, TrainingError: the folder is not a run, or the run is unfinished.
        ExportError: the graph's answers differ from the model's.
        BundleError: the bundle's folder exists already, or cannot be written.
    """
    from heatline.edge.util.extras import require_extra

    require_extra("export")
    from heatline.export.run_to_bundle import export_run
    from heatline.train.run import load_run

    target = Path(to)
    bundle = export_run(
        load_run(Path(run)),
        target,
        name=name or target.stem,
        version=version,
        false_reject=false_reject,
        precisions=precisions,
        say=say,
    )
    return bundle.path
