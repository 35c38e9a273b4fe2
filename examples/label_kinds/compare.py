"""Trainings on the same pictures, some taught by masks and some by whole pictures' labels, held to the same masks.

    python examples/label_kinds/compare.py RUN... --out figures.json

Each run is exported and evaluated on its test groups, which no training reads. The masks are read here, whatever the
run was taught by.
"""

import argparse
import json
import tempfile
from pathlib import Path

import msgspec
from rich.progress import track

from bench.machine import machine
from export.run_to_bundle import export_run
from train.evaluation.evaluate import Asked, evaluate_model
from train.run import TrainedRun, load_run


def main() -> None:
    """Write the figures of all runs into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--truth", default="masks", help="what all are held to")
    parser.add_argument("--out", type=Path, default=Path("figures.json"))
    asked = parser.parse_args()
    runs = [load_run(folder) for folder in asked.runs]
    figures = [figures_of(run, asked.truth) for run in track(runs, "runs")]
    report = {"machine": machine(), "truth": asked.truth, "runs": figures}
    asked.out.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")
    print(f"figures are in {asked.out}")


def figures_of(run: TrainedRun, truth: str) -> dict[str, object]:
    """What a run was taught by and came to, and its bundle on the test groups."""
    summary, recipe = run.summary, run.config.finetune
    with tempfile.TemporaryDirectory() as scratch:
        bundle = export_run(
            run, Path(scratch) / "bundle", name=run.folder.name, version="1", false_reject=0.05, smoothing_cells=1.5
        )
        evaluation = evaluate_model(bundle.path, Asked(run.data.folder, (truth,), part="test"))
    return {
        "model": summary.model,
        "labelled": summary.labelled,
        "weights": summary.weights,
        "recipe": {
            "name": recipe.name,
            "steps": summary.steps,
            "batch": recipe.batch,
            "bags": recipe.bags,
            "lr": recipe.lr,
        },
        "tiles": summary.tiles,
        "groups": {part: len(groups) for part, groups in summary.groups.items()},
        "seed": run.config.seed,
        "best_step": summary.best_step,
        "val": summary.val,
        "precision": summary.precision,
        "tiles_per_s": summary.tiles_per_s,
        "seconds": summary.seconds,
        "test": {
            "pictures": evaluation.told.pictures,
            "truth": truth,
            **msgspec.to_builtins(evaluation.truths[0].figures),
        },
    }


if __name__ == "__main__":
    main()
