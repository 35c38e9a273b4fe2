"""The folder of a line's evidence."""

import os
from pathlib import Path

from edge.config import LineConfig
from edge.errors import ConfigError, InputError

FOLDER = "evidence"


def evidence_folder(file: Path, config: LineConfig, state_folder: Path | None) -> Path:
    """Return the folder of a line's evidence store.

    Args:
        file: the line's file, for the message.
        state_folder: the folder that systemd gives the service; None: none.
    Raises:
        ConfigError: the line stores no evidence, or has no folder for it.
    """
    if config.evidence is None:
        raise ConfigError(f"{file} has no table [evidence], so this line stores no pictures; add it to store them")
    if config.evidence.folder is not None:
        return config.evidence.folder
    beside = state_folder or config.journal.folder
    if beside is None:
        raise ConfigError(f"{file} names no folder for the pictures, and there is no state folder; set evidence.folder")
    return beside / FOLDER


def check_folder(folder: Path) -> None:
    """Check that pictures could be stored in a folder, which need not exist yet. Nothing is written.

    Raises:
        InputError: they could not.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(
            f"no pictures can be stored in {folder}, as {there} is no folder; set evidence.folder to a folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"no pictures can be stored in {folder}; check that the disk is not read-only, and the permissions of "
            f"{there}"
        )
