"""Which journal a command looks into, and which of its events: what `heatline journal ...` share."""

from pathlib import Path

import click

from edge.cli.named_line import LINES, file_of, is_address, name_of
from edge.config import load_config
from edge.delivery.journal.file import FILE_NAME
from edge.errors import ConfigError

STATE_FOLDERS = Path("/var/lib/heatline")
"""StateDirectory= of systemd/heatline@.service: one per line in it, with its journal where its file names no other."""

line_argument = click.argument("line")
topic_option = click.option(
    "--topic", "topics", multiple=True, default=("",), help="Topic prefix, e.g. verdict.top.DEFECT; may be repeated."
)
seq_type = click.IntRange(0, 2**63 - 1)


def journal_of(line: str) -> Path:
    """The journal of a line that is named by its name or its file; or of a folder, or a file, as it is named.

    Raises:
        ConfigError: the line's file cannot be used, or what was named is neither.
    """
    if is_address(line):
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
