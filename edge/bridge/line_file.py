"""Reads the file of a line for one of its bridges."""

from typing import Literal

from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import ConfigError
from heatline.edge.target import file_of

Table = Literal["mqtt", "opcua", "modbus"]


def load_with_table(line: str, table: Table, keys: str = "") -> LineConfig:
    """Return the configuration of a line, which has the bridge's table.

    Args:
        line: the line's name or its file.
        keys: what the table needs at least, for the sentence of the error.
    Raises:
        ConfigError: the line is an address, or its file cannot be used or has no such table.
    """
    if "://" in line:
        raise ConfigError(
            f"{line} is an address, and the bridge needs the table [{table}] of the line's file; give the line's name "
            "or its file"
        )
    file = file_of(line)
    config = load_config(file)
    if getattr(config, table) is None:
        needed = f" with {keys}" if keys else ", which may be empty"
        raise ConfigError(f"{file} has no table [{table}]; add one{needed}, see docs/plant-{table}.md")
    return config
