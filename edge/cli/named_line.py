"""What the LINE of a command names: a line, its file, or the address of its events."""

from pathlib import Path

from edge.config import load_config
from edge.errors import ConfigError
from edge.service.address_file import where_events_are

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

    Of a line that runs as a service, where they are, whatever its file says by now; else what its file says.

    Raises:
        ConfigError: its file cannot be used, and nothing else says it.
    """
    if is_address(line):
        return line
    file = file_of(line)
    running_at = where_events_are(file.stem) if file.absolute().parent == LINES else None
    return _to_connect(running_at or load_config(file).events.bind)


def commands_address(line: str) -> str:
    """Where a line takes requests.

    Raises:
        ConfigError: its file cannot be used, or names no address for them.
    """
    if is_address(line):
        return line
    bound = load_config(file_of(line)).commands.bind
    if bound is None:
        raise ConfigError(f"line {name_of(line)} takes no requests; set commands.bind in {file_of(line)}")
    return _to_connect(bound)


def _to_connect(bound: str) -> str:
    """What is bound at every address of the machine is no address to connect to."""
    for everywhere, here in (("*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")):
        bound = bound.replace(f"tcp://{everywhere}:", f"tcp://{here}:")
    return bound
