"""`heatline bench training`."""

import click

from bench.machine import machine
from bench.result_file import new_report
from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_facts, print_json


@click.command(epilog="Example: heatline bench training data=hripcb truth=derived_masks split.group=board --json")
@click.argument("overrides", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Timed per repetition, of each."
)
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Real and random in turns."
)
@json_option
def training(overrides: tuple[str, ...], steps: int, repetitions: int, as_json: bool) -> None:
    """Train on real batches and on random tensors that are in memory, in turns: what drawing batches costs.

    KEY=VALUE... are those of `heatline train`. Nothing of the training is kept.
    """
    require_extra("train", "torch", "timm", "lightning", "hydra", "torchmetrics")
    from bench.training import measure_training
    from train.config import compose

    now = machine()
    found = measure_training(
        compose(overrides), steps=steps, repetitions=repetitions, say=lambda line: click.echo(line, err=True)
    )
    if as_json:
        print_json(new_report("training", now, found))
        return
    print_facts(
        f"{found.model} on {found.data}",
        {
            "figures": f"median (lowest to highest) of {repetitions} repetitions of {steps} steps",
            "real batches": f"{found.real_tiles_per_s:.1f} tiles/s",
            "random tensors": f"{found.random_tiles_per_s:.1f} tiles/s",
            "real / random": f"{found.real_to_random:.3f}",
            "drawing a batch": f"{found.drawing_ms_per_batch:.1f} ms for {found.tiles_per_batch:.0f} tiles",
            "of that": ", ".join(f"{name} {share:.0%}" for name, share in found.drawing_shares.items()),
            "on": f"{found.device} in {found.precision}, {found.threads} threads, {found.workers} workers",
        },
    )
