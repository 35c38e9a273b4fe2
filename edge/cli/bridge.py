"""`heatline bridge`: carries a line's results to the plant."""

import importlib
from typing import Any

import click

from edge.cli.group import CommandGroup

BRIDGES = ("mqtt", "opcua", "modbus")
"""Each bridge is a command in the module `edge.cli.bridge_NAME`, imported only when it is used."""


class _Bridges(CommandGroup):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(BRIDGES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in BRIDGES:
            return None
        command: Any = getattr(importlib.import_module(f"edge.cli.bridge_{name}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Bridges, epilog="Example: heatline bridge mqtt line1")
def bridge() -> None:
    """Carry a line's results to the plant: by MQTT, OPC UA or Modbus.

    Each bridge is a process of its own and a durable consumer of the line: while it or the other side is down, the line
    keeps its results, and nothing that was not acknowledged is lost.
    """
