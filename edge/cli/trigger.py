"""`heatline trigger`."""

import click

from heatline.edge.cli.options import reply_timeout_option
from heatline.edge.cli.output import json_option, print_json, visible
from heatline.edge.delivery.client.commander import Commander
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.wire.commands import Announced, Triggered


@click.command(epilog="Example: heatline trigger line1 top --part-id P-1")
@click.argument("line")
@click.argument("camera")
@click.option("--part-id", help="The part that the frame will show: 1 to 64 printable characters.")
@reply_timeout_option(10.0, "for the reply")
@key_options
@json_option
def trigger(line: str, camera: str, part_id: str | None, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Trigger CAMERA of LINE to take a frame now.

    LINE is a line's name, its TOML file, or the address at which it takes requests.

    A camera with a hardware trigger takes its frame at the next trigger edge; the part id waits for that frame.
    """
    address, keys = endpoint_of(line, "commands", key_files)
    with Commander(address, timeout_s, keys) as to_line:
        reply = to_line.trigger(camera, part_id)
    if as_json:
        print_json(reply)
    else:
        click.echo(visible(_describe_reply(reply)))


def _describe_reply(reply: Triggered | Announced) -> str:
    part = "no part id" if reply.part_id is None else f"part {reply.part_id}"
    if isinstance(reply, Announced):
        return f"{reply.camera}: {part} waits for the next trigger"
    return f"{reply.camera}: frame {reply.frame_id}, number {reply.frame_number} since the line's start, {part}"
