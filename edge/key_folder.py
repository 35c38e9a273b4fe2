"""A folder of public keys that says who is trusted: one file NAME.pub each, and only its administrator can write it."""

import os
import re
from pathlib import Path

from edge.errors import HeatlineError
from edge.key_files import PUBLIC_SUFFIX, refuse_if_others_can_write, write_new

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")


def files_in(folder: Path, kind: type[HeatlineError]) -> list[Path]:
    """The files of all keys, by name; none where there is no folder.

    Args:
        kind: what is raised.
    Raises:
        HeatlineError: the folder cannot be read, or others can write it.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        refuse_if_others_can_write(folder, kind)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise kind(
            f"{folder} cannot be read ({error.strerror}); name a folder of trusted keys that everyone may read"
        ) from error
    return files


def name_of(path: Path) -> str:
    """What the folder calls a key."""
    return path.name.removesuffix(PUBLIC_SUFFIX)


def require_name(name: str, kind: type[HeatlineError]) -> None:
    """See that a key can be called so.

    Raises:
        HeatlineError: it cannot.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise kind(
            f"{name!r} is no name for a key; expected 1 to 64 letters, digits or any of _ . @ + -; name it with --name"
        )


def put(data: bytes, name: str, folder: Path, kind: type[HeatlineError], option: str) -> Path:
    """Write a key's file; the folder is made if there is none.

    Args:
        option: of the command, which names another folder.
    Raises:
        HeatlineError: the name is another key's, the folder cannot be written, or others can write it.
    """
    path = folder / f"{name}{PUBLIC_SUFFIX}"
    if path.exists():
        raise kind(f"{folder} has another key that is called {name!r}; name this one otherwise with --name")
    try:
        for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
            missing.mkdir()
            missing.chmod(0o755)  # whatever the umask: the service is another user
        refuse_if_others_can_write(folder, kind)
    except OSError as error:
        raise kind(f"{folder} cannot be written ({error.strerror}); as root, or name another {option}") from error
    unfinished = folder / f".{name}.{os.getpid()}"  # a line that looks meanwhile must not find half a key
    write_new(unfinished, data, 0o644, kind)
    unfinished.rename(path)
    return path
