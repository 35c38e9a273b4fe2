"""`heatline bridge opcua`."""

from typing import TYPE_CHECKING

import click

from edge.cli.extras import require_extra
from edge.cli.target import KeyFiles, endpoint_of, file_of, key_options, name_of
from edge.config import load_config
from edge.errors import ConfigError
from edge.service.systemd import state_folder

if TYPE_CHECKING:
    from edge.bridge.opcua.bridge import LineEndpoints


@click.command(epilog="Example: heatline bridge opcua line1")
@click.argument("line")
@key_options
def opcua(line: str, key_files: KeyFiles) -> None:
    """Serve LINE's results and state to OPC UA clients, until Ctrl-C.

    LINE is a line's name or its TOML file, on this PC. Its table [opcua] says where to listen. Clients need a
    certificate that is allowed; the first start makes the server's own.
    """
    if "://" in line:
        raise ConfigError(f"{line} is an address, and the bridge needs the line's table [opcua]; name the line's file")
    file = file_of(line)
    config = load_config(file)
    if config.opcua is None:
        raise ConfigError(f'{file} has no table [opcua]; add one, e.g. [opcua] with listen = "127.0.0.1:4840"')
    endpoints = _endpoints(line, key_files, has_commands=config.commands.bind is not None)
    require_extra("opcua", "asyncua")
    from edge.bridge.opcua.bridge import run_bridge

    folder = config.opcua.folder or state_folder(otherwise=file.absolute().parent / "opcua")
    assert folder is not None
    cameras = [camera.name for camera in config.cameras]
    run_bridge(name_of(line), cameras, config.opcua, folder, endpoints, lambda sentence: click.echo(sentence, err=True))


def _endpoints(line: str, key_files: KeyFiles, has_commands: bool) -> "LineEndpoints":
    from edge.bridge.opcua.bridge import LineEndpoints

    return LineEndpoints(
        events=endpoint_of(line, "events", key_files),
        journal=endpoint_of(line, "journal", key_files),
        commands=endpoint_of(line, "commands", key_files) if has_commands else None,
    )
