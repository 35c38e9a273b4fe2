"""`heatline cameras`: finds cameras, and sets what their frames must look like."""

import json

import click

from heatline.edge.cameras.discovery import list_all
from heatline.edge.cli.calibrate import calibrate_camera
from heatline.edge.cli.output import CommandGroup, Rows, json_option, print_report, print_warnings

NONE_FOUND = (
    "no camera was found; check power and cable, that this PC has an address in the camera's network, and that the "
    "firewall accepts UDP from the camera. A camera in another network does not answer, but can be opened by its "
    "address"
)


@click.group(cls=CommandGroup, epilog="Example: heatline cameras list")
def cameras() -> None:
    """Find cameras, and set what frames must look like."""


cameras.add_command(calibrate_camera)


@cameras.command("list", epilog="Example: heatline cameras list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the connected cameras, each with its keys for line.toml.

    Finds GigE Vision cameras that answer a broadcast within a second, USB3 Vision cameras, and V4L2 devices. The exit
    code is 0 also if there are none.
    """
    listed = list_all()
    print_warnings([] if listed.missing is None else [listed.missing])
    cells = []
    for each in listed.cameras:
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in each.keys.items())
        cells.append((f"{each.model}\n{each.protocol}", each.serial, keys))
    rows = Rows(("camera", "serial", "in line.toml"), cells)
    print_report(listed, as_json, "" if listed.cameras else NONE_FOUND, rows=rows)
