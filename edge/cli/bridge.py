"""`heatline bridge`: carries a line's results to the plant."""

import click

from heatline.edge.cli.bridge_modbus import modbus
from heatline.edge.cli.bridge_mqtt import mqtt
from heatline.edge.cli.bridge_opcua import opcua
from heatline.edge.cli.group import CommandGroup


@click.group(cls=CommandGroup, epilog="Example: heatline bridge mqtt line1")
def bridge() -> None:
    """Carry a line's results to the plant: by MQTT, OPC UA or Modbus.

    Each bridge is a process of its own and a durable consumer of the line: while it or the other side is down, the line
    keeps its results, and nothing that was not acknowledged is lost.
    """


for command in (mqtt, opcua, modbus):
    bridge.add_command(command)
