"""Files of keys of any kind. A private key is read only if nobody but its owner could have read it.

A folder of public keys defines who is trusted: one file NAME.pub each. Who can write it decides who is trusted.
"""

import os
import re
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from heatline.edge.errors import HeatlineError
from heatline.edge.util.files import replacing, writing

LARGEST_KEY_FILE = 64 * 1024
PUBLIC_SUFFIX = ".pub"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")

K = TypeVar("K")


def public_half(path: Path) -> Path:
    """Return the path of a private key's public half."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


# Each function raises an error of the class `kind` if the file cannot be used.


def write_pair(path: Path, private: bytes, public: bytes, kind: type[HeatlineError]) -> None:
    """Write a private key to a new file that only its owner may read, and its public half to a new file beside it."""
    write_new(path, private, 0o600, kind)
    try:
        write_new(public_half(path), public, 0o644, kind)
    except HeatlineError:
        path.unlink()  # half a pair is useless, and would block the next attempt
        raise


def write_new(path: Path, data: bytes, mode: int, kind: type[HeatlineError]) -> None:
    """Write a new file, completely or not at all, with exactly these permissions whatever the umask."""
    if os.path.lexists(path):
        raise kind(f"{path} exists already; keys are never overwritten, name a new file")
    with writing(path, kind), replacing(path) as new:
        new.touch(mode)
        new.chmod(mode)
        new.write_bytes(data)


def read_private(path: Path, kind: type[HeatlineError], made_by: str) -> bytes:
    """Return the content of a private key's file, which the command `made_by` creates."""
    if path.suffix == PUBLIC_SUFFIX:
        raise kind(f"{path} holds a public key and no private one; name the private one that {made_by} made with it")
    return read_secret(path, kind, f"name a private key made by {made_by}", "make a new key")


def read_secret(path: Path, kind: type[HeatlineError], expected: str, replace: str) -> bytes:
    """Return the content of a file that only its owner can read and write. The error says what is `expected` if it
    cannot be read, and how to `replace` it if others may have read it.
    """
    data, mode = _read(path, kind, expected)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise kind(
            f"{path} can be used by others than its owner (mode {mode:04o}, expected 0600); {replace} if others "
            f"may have read it, otherwise: chmod 600 {path}"
        )
    return data


def read_public(path: Path, kind: type[HeatlineError], made_by: str) -> bytes:
    """Return the content of a public key's file."""
    return _read(path, kind, f"name a public key, KEY{PUBLIC_SUFFIX} of {made_by}")[0]


def _read(path: Path, kind: type[HeatlineError], expected: str) -> tuple[bytes, int]:
    """Return a key file's content, as far as a key can be long, and its permissions."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_KEY_FILE), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror}); {expected}") from error


@dataclass(frozen=True)
class StoredKey(Generic[K]):
    """A public key of a folder, and its name there."""

    name: str
    key: K
    path: Path


class KeyStore(Generic[K]):
    """A folder of trusted public keys. All of its errors are of the class `kind`.

    Args:
        parse: returns the key in the content of a file, whose path is for the error's message.
        suffixes: of the keys' files.
    """

    def __init__(
        self,
        folder: Path,
        parse: Callable[[bytes, Path], K],
        kind: type[HeatlineError],
        suffixes: Collection[str] = (PUBLIC_SUFFIX,),
    ) -> None:
        self.folder = folder
        self._parse, self._kind, self._suffixes = parse, kind, suffixes

    def all(self) -> list[StoredKey[K]]:
        """Return all keys, by name; none if there is no folder. Raise if one cannot be read or is not a key."""
        found, faults = self.valid()
        if faults:
            raise faults[0]
        return found

    def valid(self) -> tuple[list[StoredKey[K]], list[HeatlineError]]:
        """Return the keys that can be read, by name, and why others, or all, cannot be."""
        found: list[StoredKey[K]] = []
        faults: list[HeatlineError] = []
        try:
            files = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in self._suffixes)
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [self._kind(f"{self.folder} cannot be read ({error.strerror}); let everyone read it")]
        for path in files:
            try:
                data, _ = _read(path, self._kind, "everyone must be able to read it")
                found.append(StoredKey(path.name.removesuffix(PUBLIC_SUFFIX), self._parse(data, path), path))
            except HeatlineError as error:
                if os.path.lexists(path):  # otherwise it was revoked just now
                    faults.append(error)
        return found, faults

    def add(self, name: str, key: K, data: bytes, option: str) -> StoredKey[K]:
        """Add a key by the content of its file, and create the folder if there is none. A key that is already there
        keeps its name. `option` is the command's for another folder.
        """
        path = self._path_of(name)
        for other in self.all():
            if other.key == key:
                return other
        if path.exists():
            raise self._kind(f"{self.folder} has another key with the name {name!r}; choose another name with --name")
        with writing(self.folder, self._kind, or_else=f", or name another {option}"):
            for missing in reversed([each for each in (self.folder, *self.folder.parents) if not each.exists()]):
                missing.mkdir()
                missing.chmod(0o755)  # whatever the umask: the service runs as another user
        write_new(path, data, 0o644, self._kind)
        return StoredKey(name, key, path)

    def remove(self, name: str, option: str) -> bool:
        """Remove a key; return whether it was there."""
        path = self._path_of(name)
        if not os.path.lexists(path):
            return False
        with writing(path, self._kind, or_else=f", or name another {option}"):
            path.unlink()
        return True

    def _path_of(self, name: str) -> Path:
        if not PLAIN_NAME.fullmatch(name):
            raise self._kind(
                f"{name!r} is not a name for a key; expected 1 to 64 letters, digits or any of _ . @ + -; "
                "name it with --name"
            )
        return self.folder / f"{name}{PUBLIC_SUFFIX}"
