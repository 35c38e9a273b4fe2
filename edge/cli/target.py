"""What the LINE of a command means: a line, its file, the address of one of its sockets, or its journal."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from edge.config import load_config
from edge.delivery.journal.file import FILE_NAME
from edge.delivery.security.access import is_local
from edge.delivery.security.authenticator import SocketName
from edge.delivery.security.curve import ClientKeys, read_key_pair
from edge.errors import AccessError, ConfigError
from edge.key_files import public_half
from edge.service.systemd import LINES, STATE_FOLDERS, published_address


class KeyFiles(NamedTuple):
    """The keys that were named on the command line; None: none."""

    own: Path | None = None
    line: Path | None = None


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--key` and `--line-key`, and its function their files as `key_files`."""

    @click.option(
        "--key",
        "own_key",
        type=click.Path(path_type=Path),
        help="Your private key, where the line takes keys. Of a line of this PC the default is the line's own.",
    )
    @click.option(
        "--line-key",
        type=click.Path(path_type=Path),
        help="The line's public key, where LINE is an address that takes keys.",
    )
    @functools.wraps(command)
    def with_keys(*arguments: Any, own_key: Path | None, line_key: Path | None, **options: Any) -> Any:
        return command(*arguments, key_files=KeyFiles(own_key, line_key), **options)

    return with_keys


def name_of(line: str) -> str:
    """A line's name as its service has it; an address has none and stays."""
    return line if _is_address(line) else file_of(line).stem


def file_of(line: str) -> Path:
    """The file of a line that is named by its name or by its file."""
    return Path(line) if "/" in line or line.endswith(".toml") else LINES / f"{line}.toml"


def endpoint_of(line: str, socket: SocketName, files: KeyFiles) -> tuple[str, ClientKeys | None]:
    """Where to connect to one of a line's sockets, and by which keys; None: it takes none.

    Raises:
        AccessError: a key cannot be used.
        ConfigError: the line's file cannot be used, or names no address for that.
        UsageError: the options do not fit.
    """
    if _is_address(line):
        return line, _keys_of_address(files)
    bound = _bound(line, socket)
    return _to_connect(bound), _keys_of_line(line, bound, files)


def journal_of(line: str) -> Path:
    """The journal of a line that is named by its name or its file; or of a folder, or a file, as it is named.

    Raises:
        ConfigError: the line's file cannot be used, or what was named is neither.
    """
    if _is_address(line):
        raise ConfigError(f"{line} is an address, and a journal is a file; name the line, its TOML file, or the folder")
    named = Path(line)
    if line.endswith(".toml") or (not named.exists() and (LINES / f"{line}.toml").exists()):
        folder = load_config(file_of(line)).journal.folder
        return (folder or STATE_FOLDERS / name_of(line)) / FILE_NAME
    if named.is_dir():
        return named / FILE_NAME
    if named.exists() or "/" in line:
        return named
    return STATE_FOLDERS / line / FILE_NAME


def _is_address(line: str) -> bool:
    return "://" in line


def _bound(line: str, socket: SocketName) -> str:
    """As its file says; the events of a line that runs as a service are where it bound them, whatever that says now."""
    file = file_of(line)
    if socket == "events":
        running_at = published_address(file.stem) if file.absolute().parent == LINES else None
        return running_at or load_config(file).events.bind
    config = load_config(file)
    bound = config.commands.bind if socket == "commands" else config.journal.bind
    if bound is None:
        what = "takes no requests" if socket == "commands" else "serves its journal to nobody"
        raise ConfigError(f"line {file.stem} {what}; set {socket}.bind in {file}")
    return bound


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
