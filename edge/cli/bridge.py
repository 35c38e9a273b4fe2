"""`heatline bridge`: carries a line's results to the plant."""

import click

from heatline.edge.cli.output import CommandGroup, say
from heatline.edge.target import KeyFiles, key_options
from heatline.edge.util.extras import require_extra


@click.group(cls=CommandGroup, epilog="Example: heatline bridge mqtt line1")
def bridge() -> None:
    """Carry a line's results to the plant: by MQTT, OPC UA or Modbus.

    Each bridge is a process of its own and a durable consumer of the line: while it or the other side is down, the line
    keeps its results, and nothing that was not acknowledged is lost.
    """


@bridge.command(epilog="Example: heatline bridge mqtt line1")
@click.argument("line")
def mqtt(line: str) -> None:
    """Publish LINE's results and its state to an MQTT 5 broker, until Ctrl-C.

    The table [mqtt] of LINE's file names the broker. A result counts as delivered when the broker has had it for
    mqtt.republish_s; until then the line keeps it. LINE is a line's name or its TOML file, on this PC.
    """
    require_extra("mqtt")
    from heatline.edge.bridge.mqtt import run_bridge

    run_bridge(line)


@bridge.command(epilog="Example: heatline bridge opcua line1")
@click.argument("line")
@key_options
def opcua(line: str, key_files: KeyFiles) -> None:
    """Serve LINE's results and state to OPC UA clients, until Ctrl-C.

    LINE is a line's name or its TOML file, on this PC. Its table [opcua] says where to listen. Clients need a
    certificate that is allowed; the first start makes the server's own.
    """
    require_extra("opcua")
    from heatline.edge.bridge.opcua.bridge import run_bridge

    run_bridge(line, key_files, lambda sentence: say(sentence, err=True))


@bridge.command(epilog="Example: heatline bridge modbus line1")
@click.argument("line")
def modbus(line: str) -> None:
    """Serve LINE's results and state to PLCs over Modbus TCP, until Ctrl-C.

    The PLC reads one result after another and acknowledges each; what it has not acknowledged comes again after any
    outage. It also reads the newest verdict of each camera, and triggers cameras or selects products. LINE is a line's
    name or its TOML file, which has a table [modbus].
    """
    from heatline.edge.bridge.modbus.bridge import run_bridge

    run_bridge(line)
