"""`heatline select`."""

import click

from edge.cli.finite_range import FiniteRange
from edge.cli.line_words import bundle_in_words
from edge.cli.output import json_option, print_json, visible
from edge.delivery.commander import Commander


@click.command(epilog="Example: heatline select tcp://127.0.0.1:5557 4711")
@click.argument("address")
@click.argument("product")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, max=3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait until it is in force.",
)
@json_option
def select(address: str, product: str, timeout_s: float, as_json: bool) -> None:
    """Put PRODUCT in force at the line that takes commands at ADDRESS; ends once it is.

    Its bundle is verified and warmed first, while frames are inspected as before. If that fails, what was in force
    still is.
    """
    with Commander(address, timeout_s) as line:
        reply = line.select(product)
    if as_json:
        print_json(reply)
    else:
        click.echo(visible(f"product {reply.product} is in force, with bundle {bundle_in_words(reply.bundle)}"))
