"""`heatline select`."""

import click

from heatline.edge.cli.formatting import describe_bundle
from heatline.edge.cli.options import reply_timeout_option
from heatline.edge.cli.output import json_option, print_json, visible
from heatline.edge.delivery.client.commander import Commander
from heatline.edge.target import KeyFiles, endpoint_of, key_options


@click.command(epilog="Example: heatline select line1 4711")
@click.argument("line")
@click.argument("product")
@reply_timeout_option(60.0, "until the product is active")
@key_options
@json_option
def select(line: str, product: str, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Activate PRODUCT at LINE, and wait until it is active.

    LINE is a line's name, its TOML file, or the address at which it takes requests.

    The bundle is verified and compiled first, while frames are inspected as before. If that fails, nothing changes.
    """
    address, keys = endpoint_of(line, "commands", key_files)
    with Commander(address, timeout_s, keys) as to_line:
        reply = to_line.select(product)
    if as_json:
        print_json(reply)
    else:
        click.echo(visible(f"product {reply.product} is active, with bundle {describe_bundle(reply.bundle)}"))
