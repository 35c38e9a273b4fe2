"""The keys by which a client and a line know each other: options that commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click


class KeyFiles(NamedTuple):
    """What was named on the command line; None: nothing."""

    own: Path | None
    line: Path | None


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
