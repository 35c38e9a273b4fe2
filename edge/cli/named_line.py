"""What the LINE of a command names: a line, its file, or the address of its events."""

from pathlib import Path

from edge.config import load_config
from edge.errors import ConfigError

LINES = Path("/etc/heatline")
"""Where a service looks for NAME.toml."""


def is_address(line: str) -> bool:
    return "://" in line


def name_of(line: str) -> str:
    """A line's name as its service has it; an address has none and stays."""
    return line if is_address(line) else file_of(line).stem


def file_of(line: str) -> Path:
    """The file of a line that is named by its name or by its file."""
    return Path(line) if "/" in line or line.endswith(".toml") else LINES / f"{line}.toml"


def events_address(line: str) -> str:
    """Where to listen to a line's events from its own machine.

    Raises:
        ConfigError: its file cannot be used.
    """
    if is_address(line):
        return line
    try:
        bound = load_config(file_of(line)).events.bind
    except ConfigError as error:
        raise ConfigError(
            f"{error}; or name the address of the line's events instead, e.g. tcp://127.0.0.1:5556"
        ) from error
    # What is bound at every address of the machine is no address to connect to.
    for everywhere, here in (("*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")):
        bound = bound.replace(f"tcp://{everywhere}:", f"tcp://{here}:")
    return bound
