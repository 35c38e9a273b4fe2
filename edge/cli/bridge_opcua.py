"""`heatline bridge opcua`."""

from typing import TYPE_CHECKING

import click

from heatline.edge.bridge.line import load_with_table
from heatline.edge.target import KeyFiles, endpoint_of, file_of, key_options, name_of
from heatline.edge.util.extras import require_extra
from heatline.edge.util.systemd import state_folder

if TYPE_CHECKING:
    from heatline.edge.bridge.opcua.bridge import LineEndpoints


@click.command(epilog="Example: heatline bridge opcua line1")
@click.argument("line")
@key_options
def opcua(line: str, key_files: KeyFiles) -> None:
    """Serve LINE's results and state to OPC UA clients, until Ctrl-C.

    LINE is a line's name or its TOML file, on this PC. Its table [opcua] says where to listen. Clients need a
    certificate that is allowed; the first start makes the server's own.
    """
    config = load_with_table(line, "opcua")
    assert config.opcua is not None
    endpoints = _endpoints(line, key_files, has_commands=config.commands.bind is not None)
    require_extra("opcua")
    from heatline.edge.bridge.opcua.bridge import run_bridge

    folder = config.opcua.folder or state_folder(otherwise=file_of(line).absolute().parent / "opcua")
    assert folder is not None
    cameras = [camera.name for camera in config.cameras]
    run_bridge(name_of(line), cameras, config.opcua, folder, endpoints, lambda sentence: click.echo(sentence, err=True))


def _endpoints(line: str, key_files: KeyFiles, has_commands: bool) -> "LineEndpoints":
    from heatline.edge.bridge.opcua.bridge import LineEndpoints

    return LineEndpoints(
        events=endpoint_of(line, "events", key_files),
        journal=endpoint_of(line, "journal", key_files),
        commands=endpoint_of(line, "commands", key_files) if has_commands else None,
    )
