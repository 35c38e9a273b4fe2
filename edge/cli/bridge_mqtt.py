"""`heatline bridge mqtt`."""

import click

from heatline.edge.util.extras import require_extra


@click.command(epilog="Example: heatline bridge mqtt line1")
@click.argument("line")
def mqtt(line: str) -> None:
    """Publish LINE's results and its state to an MQTT 5 broker, until Ctrl-C.

    The table [mqtt] of LINE's file names the broker. A result counts as delivered when the broker has had it for
    mqtt.republish_s; until then the line keeps it. LINE is a line's name or its TOML file, on this PC.
    """
    require_extra("mqtt")
    from heatline.edge.bridge.mqtt.bridge import run_bridge

    run_bridge(line)
