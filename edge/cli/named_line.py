"""What the LINE of a command names: a line, its file, or the address of its events."""

from pathlib import Path

import click

from edge.cli.key_options import KeyFiles
from edge.config import load_config
from edge.delivery.security.addresses import is_local
from edge.delivery.security.curve import ClientKeys, read_key_pair
from edge.errors import AccessError, ConfigError
from edge.key_files import public_half
from edge.service.systemd import published_address

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
    return line if is_address(line) else _to_connect(_events_bound(line))


def events_keys(line: str, files: KeyFiles) -> ClientKeys | None:
    """By which keys to listen there; None: it takes none.

    Raises:
        AccessError: a key cannot be used.
        ConfigError: its file cannot be used.
        UsageError: the options do not fit.
    """
    return _keys_of_address(files) if is_address(line) else _keys_of_line(line, _events_bound(line), files)


def _events_bound(line: str) -> str:
    file = file_of(line)
    running_at = published_address(file.stem) if file.absolute().parent == LINES else None
    return running_at or load_config(file).events.bind


def commands_address(line: str) -> str:
    """Where a line takes requests.

    Raises:
        ConfigError: its file cannot be used, or names no address for them.
    """
    return line if is_address(line) else _to_connect(_commands_bound(line))


def commands_keys(line: str, files: KeyFiles) -> ClientKeys | None:
    """By which keys to ask there; None: it takes none.

    Raises:
        AccessError, ConfigError, UsageError: as in `events_keys`.
    """
    return _keys_of_address(files) if is_address(line) else _keys_of_line(line, _commands_bound(line), files)


def _commands_bound(line: str) -> str:
    bound = load_config(file_of(line)).commands.bind
    if bound is None:
        raise ConfigError(f"line {name_of(line)} takes no requests; set commands.bind in {file_of(line)}")
    return bound


def journal_address(line: str) -> str:
    """Where a line serves its journal.

    Raises:
        ConfigError: its file cannot be used, or names no address for it.
    """
    return line if is_address(line) else _to_connect(_journal_bound(line))


def journal_keys(line: str, files: KeyFiles) -> ClientKeys | None:
    """By which keys to follow there; None: it takes none.

    Raises:
        AccessError, ConfigError, UsageError: as in `events_keys`.
    """
    return _keys_of_address(files) if is_address(line) else _keys_of_line(line, _journal_bound(line), files)


def _journal_bound(line: str) -> str:
    bound = load_config(file_of(line)).journal.bind
    if bound is None:
        raise ConfigError(f"line {name_of(line)} serves its journal to nobody; set journal.bind in {file_of(line)}")
    return bound


def replay_address(line: str) -> str | None:
    """Where events can be had again; None: nowhere, or an address was given, which does not tell.

    Raises:
        ConfigError: its file cannot be used.
    """
    bound = None if is_address(line) else load_config(file_of(line)).journal.bind
    return None if bound is None else _to_connect(bound)


def replay_keys(line: str, files: KeyFiles) -> ClientKeys | None:
    """By which keys to ask there; None: it takes none, or there is no such place.

    Raises:
        AccessError, ConfigError, UsageError: as in `events_keys`.
    """
    if is_address(line):
        return _keys_of_address(files)
    bound = load_config(file_of(line)).journal.bind
    return None if bound is None or is_local(bound) else _keys_of_line(line, bound, files)


def _keys_of_address(files: KeyFiles) -> ClientKeys | None:
    if files.own is None and files.line is None:
        return None
    if files.own is None or files.line is None:
        raise click.UsageError("--key and --line-key go together: your private key and the line's public one")
    return ClientKeys.read(files.own, files.line)


def _keys_of_line(line: str, bound: str, files: KeyFiles) -> ClientKeys | None:
    """Of a line of this machine: whoever can read the line's own key is let in by it."""
    if is_local(bound):
        if files != (None, None):
            raise click.UsageError(f"{line} is reached at {bound}, which takes no keys; leave out --key and --line-key")
        return None
    key = load_config(file_of(line)).security.key
    if key is None:
        raise ConfigError(f"{file_of(line)} names no key, and the line runs at {bound}; set key under [security]")
    if files.own is not None:
        return ClientKeys.read(files.own, files.line or public_half(key))
    if files.line is not None:
        raise click.UsageError("--line-key goes with --key, your own")
    try:
        pair = read_key_pair(key)
    except AccessError as error:
        raise AccessError(f"{error}; or name a key of your own that is allowed (--key)") from error
    return ClientKeys(pair, pair.public)


def _to_connect(bound: str) -> str:
    """What is bound at every address of the machine is no address to connect to."""
    for everywhere, here in (("*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")):
        bound = bound.replace(f"tcp://{everywhere}:", f"tcp://{here}:")
    return bound
