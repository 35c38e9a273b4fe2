"""Resolves the LINE of a command: a line's name, its file, the address of a socket, or its journal."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from heatline.edge.config import load_config
from heatline.edge.delivery.auth import ClientKeys, SocketName, is_local, read_key_pair
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.errors import AccessError, ConfigError
from heatline.edge.keys import public_half
from heatline.edge.util.systemd import LINES, STATE_FOLDERS, published_address


class KeyFiles(NamedTuple):
    """The key files that the command line names."""

    own: Path | None = None
    line: Path | None = None


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--key` and `--line-key`, and its function their files as `key_files`."""

    @click.option(
        "--key",
        "own_key",
        type=click.Path(path_type=Path),
        help="Your private key, if the line needs one. Default for a line of this PC: the line's own key.",
    )
    @click.option(
        "--line-key",
        type=click.Path(path_type=Path),
        help="The line's public key, if LINE is an address that needs keys.",
    )
    @functools.wraps(command)
    def with_keys(*arguments: Any, own_key: Path | None, line_key: Path | None, **options: Any) -> Any:
        if own_key is None and line_key is not None:
            raise click.UsageError("--line-key needs --key, your own key")
        return command(*arguments, key_files=KeyFiles(own_key, line_key), **options)

    return with_keys


def name_of(line: str) -> str:
    """Return a line's name as its service has it; return an address as it is."""
    return line if _is_address(line) else file_of(line).stem


def file_of(line: str) -> Path:
    """Return the file of a line that is named by its name or by its file."""
    return Path(line) if "/" in line or line.endswith(".toml") else LINES / f"{line}.toml"


def is_line(line: str) -> bool:
    """Return whether a line is named by its name or its file, not by an address or by one of its folders."""
    return not _is_address(line) and (line.endswith(".toml") or not Path(line).exists())


def endpoint_of(line: str, socket: SocketName, files: KeyFiles) -> tuple[str, ClientKeys | None]:
    """Return the address of one of a line's sockets, and the keys to connect with; None: it needs none."""
    if _is_address(line):
        if files.own is not None and files.line is None:
            raise click.UsageError("--key needs --line-key, the line's public key")
        return line, None if files.own is None or files.line is None else ClientKeys.read(files.own, files.line)
    bound = _bound(line, socket)
    keys = _keys_of_line(line, bound, files)
    for everywhere, here in (("*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")):
        bound = bound.replace(f"tcp://{everywhere}:", f"tcp://{here}:")  # a client cannot connect to a wildcard
    return bound, keys


def journal_of(line: str) -> Path:
    """Return the journal file of a line that is named by its name, its file, or the journal's folder or file."""
    named, is_configured = named_here(line)
    if is_configured:
        folder = load_config(file_of(line)).journal.folder
        return (folder or STATE_FOLDERS / name_of(line)) / FILE_NAME
    if named.is_dir():
        return named / FILE_NAME
    if named.exists() or "/" in line:
        return named
    return STATE_FOLDERS / line / FILE_NAME


def named_here(line: str) -> tuple[Path, bool]:
    """Return the path that names a line or one of its folders or files, and whether it is a line with a TOML file."""
    if _is_address(line):
        raise ConfigError(f"{line} is an address, and this is read from the disk; name the line, its file, or folder")
    named = Path(line)
    return named, line.endswith(".toml") or (not named.exists() and (LINES / f"{line}.toml").exists())


def _is_address(line: str) -> bool:
    return "://" in line


def _bound(line: str, socket: SocketName) -> str:
    """Return the address in the line's file; for the events of a running service, the address that it has bound."""
    file = file_of(line)
    if socket == "events":
        running_at = published_address(file.stem) if file.absolute().parent == LINES else None
        return running_at or load_config(file).events.bind
    config = load_config(file)
    bound = config.commands.bind if socket == "commands" else config.journal.bind
    if bound is None:
        problem = "takes no requests" if socket == "commands" else "does not serve its journal"
        raise ConfigError(f"the line of {file} {problem}; set {socket}.bind there")
    return bound


def _keys_of_line(line: str, bound: str, files: KeyFiles) -> ClientKeys | None:
    """Return the keys for a line of this machine. A user who can read the line's own key may connect with it."""
    if is_local(bound):
        if files.own is not None:
            raise click.UsageError(f"{line} has the address {bound}, which needs no keys; omit --key and --line-key")
        return None
    key = load_config(file_of(line)).security.key
    if key is None:
        raise ConfigError(f"{file_of(line)} names no key, but the line has the address {bound}; set security.key")
    if files.own is not None:
        return ClientKeys.read(files.own, files.line or public_half(key))
    try:
        pair = read_key_pair(key)
    except AccessError as error:
        raise AccessError(f"{error}; or name your own allowed key with --key") from error
    return ClientKeys(pair, pair.public)
