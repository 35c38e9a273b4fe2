"""`heatline train`."""

import click
import msgspec

from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_facts, print_json

EXAMPLES = """
Example:

\b
  heatline train data=hripcb truth=derived_masks split.group=board \\
      split.val=[08] split.test=[10,12] recipe.steps=600 out=runs/hripcb
  heatline train out=runs/hripcb resume=true
"""


@click.command(epilog=EXAMPLES)
@click.argument("overrides", nargs=-1, metavar="KEY=VALUE...")
@json_option
def train(overrides: tuple[str, ...], as_json: bool) -> None:
    """Teach a classifier from labelled pictures.

    data=FOLDER holds images/ with masks/, derived_masks/, labelme/, annotations/ (COCO JSON or VOC XML) or boxes/, and
    perhaps labels.csv, which alone will do; or good/ and defective/. Groups of pictures (split.group, a column of
    labels.csv, or split.pattern, a regular expression on file names) stay whole: those in split.val choose the best
    checkpoint, those in split.test are not touched. See what is there with `heatline data show FOLDER`.

    model=... (see `heatline models`), recipe=... and logger=... choose a file each in train/configs, any other key sets
    a value in them. Ctrl-C stops in good order, resume=true goes on. --json prints the run's summary.
    """
    require_extra("train", "torch", "timm", "lightning", "hydra", "torchmetrics")
    from train.config import compose
    from train.fit import fit, leads_devices

    run = fit(compose(overrides), say=lambda line: click.echo(line, err=True))
    if not leads_devices():
        return
    summary = run.read_summary()
    if as_json:
        print_json({"run": str(run.folder), **msgspec.structs.asdict(summary)})
        return
    val = summary.val
    print_facts(
        f"{run.folder}: {summary.model} by recipe {summary.recipe}",
        {
            "best": f"step {summary.best_step} of {summary.steps}",
            "validation groups": ", ".join(summary.groups["val"]),
            "average precision": f"{val['val_ap']:.3f}",
            "AUROC": f"{val['val_auroc']:.3f}",
            "accuracy": f"{val['val_accuracy']:.3f} (always the majority: {val['val_majority_share']:.3f})",
            "throughput": f"{summary.tiles_per_s or 0:.0f} tiles/s in {summary.precision}",
            "time": f"{summary.seconds:.0f} s",
            "next": f"heatline export {run.folder} --to BUNDLE",
        },
    )
