"""`heatline bridge modbus`."""

import click


@click.command(epilog="Example: heatline bridge modbus line1")
@click.argument("line", required=False)
@click.option("--symbols", is_flag=True, help="Print the register map as CSV for the PLC program, and end.")
def modbus(line: str | None, symbols: bool) -> None:
    """Serve LINE's results and state to PLCs over Modbus TCP, until Ctrl-C.

    The PLC reads one result after another and acknowledges each; what it has not acknowledged comes again after any
    outage. It also reads the newest verdict of each camera, and triggers cameras or selects products. LINE is a line's
    name or its TOML file, which has a table [modbus]. With --symbols and without LINE, prints the map of a line with
    one camera.
    """
    from heatline.edge.bridge.modbus.registers import symbol_file

    if symbols:
        from heatline.edge.config import load_config
        from heatline.edge.target import file_of

        cameras = ["camera"] if line is None else [camera.name for camera in load_config(file_of(line)).cameras]
        click.echo(symbol_file(cameras), nl=False)
        return
    if line is None:
        raise click.UsageError("LINE is missing; give a line's name or its TOML file")
    from heatline.edge.bridge.modbus.bridge import run_bridge

    run_bridge(line)
