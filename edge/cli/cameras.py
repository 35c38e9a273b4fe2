"""`heatline cameras`, and `heatline cameras list`, which finds cameras."""

import json

import click

from heatline.edge.cameras.discovery import Found, list_all
from heatline.edge.cli.calibrate import calibrate_camera
from heatline.edge.cli.cameras_grab import grab
from heatline.edge.cli.group import CommandGroup
from heatline.edge.cli.output import json_option, print_json, print_table, print_warnings


@click.group(cls=CommandGroup, epilog="Example: heatline cameras list && heatline cameras grab line.toml -n 10")
def cameras() -> None:
    """Find cameras, grab frames, and set what frames must look like."""


cameras.add_command(calibrate_camera)
cameras.add_command(grab)


@cameras.command("list", epilog="Example: heatline cameras list --interface enp3s0")
@click.option("--interface", metavar="NAME", help="Network interface to ask. Default: all of them, and USB.")
@json_option
def list_(interface: str | None, as_json: bool) -> None:
    """List the connected cameras, each with its keys for line.toml.

    Finds GigE Vision cameras that answer a broadcast within a second, USB3 Vision cameras, and V4L2 devices. The exit
    code is 0 also if there are none.
    """
    listed = list_all(interface)
    print_warnings([] if listed.missing is None else [listed.missing])
    if as_json:
        print_json(listed)
    elif listed.cameras:
        print_table(("camera", "serial", "in line.toml"), map(_cells, listed.cameras), numbers=())
    else:
        click.echo(
            "no camera was found; check power and cable, that this PC has an address in the camera's network, and that "
            "the firewall accepts UDP from the camera. A camera in another network does not answer, but can be opened "
            "by its address"
        )


def _cells(one: Found) -> tuple[str, str, str]:
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in one.keys.items())
    return f"{one.model}\n{one.protocol}", f"{one.serial}\n{one.physical}", keys
