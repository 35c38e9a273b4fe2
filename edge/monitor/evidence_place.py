"""The folder of a line's evidence, and whether pictures could be stored there."""

import contextlib
import os
from pathlib import Path

from heatline.edge.config import EvidenceConfig, LineConfig, load_config
from heatline.edge.errors import ConfigError, InputError
from heatline.edge.monitor.files import hold
from heatline.edge.monitor.retention import MIB, Limits, Retention, require_room
from heatline.edge.target import file_of, name_of, named_here
from heatline.edge.util.files import require_writable, writing
from heatline.edge.util.systemd import LINES, STATE_FOLDERS

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
        raise ConfigError(
            f"{file} names no folder for the pictures, and there is no state folder; set evidence.folder or "
            "journal.folder, or run the line as a service"
        )
    return beside / FOLDER


def evidence_of(line: str) -> Path:
    """Return the folder of the pictures of a line that is named by its name, its file, or that folder.

    Raises:
        ConfigError: the line's file cannot be used, or what was named is neither.
    """
    named, is_configured = named_here(line)
    if is_configured:
        file = file_of(line)
        is_service = file.absolute().parent == LINES
        return evidence_folder(file, load_config(file), STATE_FOLDERS / name_of(line) if is_service else None)
    found = named if named.exists() or "/" in line else STATE_FOLDERS / line / FOLDER
    if not found.is_dir():
        raise ConfigError(
            f"{found} is not a folder of pictures; name a line that stores pictures, its TOML file, or the folder"
        )
    return found


def limits_of(config: EvidenceConfig) -> Limits:
    """Return what the store may hold."""
    return Limits(keep_s=config.retain_days * 86400, keep_bytes=config.retain_mib * MIB)


def check_folder(folder: Path, config: EvidenceConfig) -> None:
    """Check that pictures could be stored in a folder, which need not exist yet. Nothing of the check stays there.

    Raises:
        InputError: they could not.
    """
    try:
        there = require_writable(folder)
        require_room(there, limits_of(config), 1, held=lambda: Retention(folder, limits_of(config)).size_bytes)
    except OSError as error:
        raise InputError(
            f"no pictures can be stored in {folder} ({error.strerror}: {error.filename or folder}); set "
            "evidence.folder to a folder in which the line's user can write"
        ) from error


def require_unused(folder: Path) -> None:
    """Require that no running line stores pictures in a folder, which need not exist.

    Raises:
        DeliveryError: one does.
        InputError: its lock cannot be taken.
    """
    with writing(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.close(hold(folder, os.O_RDWR))
