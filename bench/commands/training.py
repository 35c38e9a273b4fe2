"""`heatline bench training`."""

from pathlib import Path

import click

from bench.commands.common import claim, deliver, out_option
from bench.machine import machine
from bench.result_file import new_report
from bench.training_rows import to_facts
from edge.cli.extras import require_extra
from edge.cli.output import json_option


@click.command(
    epilog="Example: heatline bench training data=hripcb truth=derived_masks split.group=board --out training.json"
)
@click.argument("overrides", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Timed per repetition, of each."
)
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Real and random in turns."
)
@out_option
@json_option
def training(overrides: tuple[str, ...], steps: int, repetitions: int, out: Path | None, as_json: bool) -> None:
    """Train on real batches and on random tensors that are in memory, in turns: what drawing batches costs.

    KEY=VALUE... are those of `heatline train`, with recipe=finetune where none is chosen. Nothing of the training is
    kept.
    """
    require_extra("train", "torch", "timm", "lightning", "hydra", "torchmetrics")
    from bench.training import measure_training
    from train.compose import compose, with_recipe

    claim(out)
    now = machine()
    found = measure_training(
        compose(with_recipe(overrides, "finetune")),
        steps=steps,
        repetitions=repetitions,
        say=lambda line: click.echo(line, err=True),
    )
    deliver(f"{found.model} on {found.data}", new_report("training", now, found), to_facts(found), out, as_json)
