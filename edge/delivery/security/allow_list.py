"""Allow-lists: a folder with one folder of public keys for each role of clients from other machines.

Commands write the folder, and a running line reads it about once a second.
"""

import errno
import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from heatline.edge.delivery.security.curve import parse_public_key, to_file
from heatline.edge.errors import AccessError
from heatline.edge.key_files import PUBLIC_SUFFIX, files_in, name_of, put, read_trusted, require_name

logger = logging.getLogger(__name__)

Role = Literal["listen", "follow", "command"]
"""Role of a client: receive live events, be a durable consumer, or send commands."""
ROLES: tuple[Role, ...] = get_args(Role)
ALLOWED_KEYS = Path("/etc/heatline/keys/allowed")
"""Default folder of a machine's allow-lists."""
_SHORTAGES = errno.EMFILE, errno.ENFILE, errno.ENOMEM


@dataclass(frozen=True)
class AllowedKey:
    """A key that is allowed in a role. Its name is its file's."""

    name: str
    key: bytes
    """Z85."""
    role: Role
    path: Path


def allowed_keys(folder: Path, role: Role) -> list[AllowedKey]:
    """Return all keys of a role, by name; none if there is no folder.

    Raises:
        AccessError: the folder or a key cannot be read, or others can write it.
    """
    return [
        AllowedKey(name_of(path), parse_public_key(read_trusted(path, AccessError), path), role, path)
        for path in files_in(folder / role, AccessError)
    ]


def allow(key: bytes, name: str, folder: Path, role: Role) -> AllowedKey:
    """Allow a key in a role. Create the folder if there is none. A key that is allowed already keeps its name.

    Raises:
        AccessError: the name is invalid or another key's, the folder cannot be written, or others can write it.
    """
    require_name(name, AccessError)
    for other in allowed_keys(folder, role):
        if other.key == key:
            return other
    return AllowedKey(name, key, role, put(to_file(key), name, folder / role, AccessError, "--allowed"))


def revoke(name: str, folder: Path, roles: Collection[Role] = ROLES) -> list[Role]:
    """Revoke a key; return the roles that it had.

    Raises:
        AccessError: the name is invalid, the key has none of the roles, or the folder cannot be written.
    """
    require_name(name, AccessError)
    had: list[Role] = []
    for role in roles:
        path = folder / role / f"{name}{PUBLIC_SUFFIX}"
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise AccessError(
                f"{path} cannot be deleted ({error.strerror}); as root, or name another --allowed"
            ) from error
        had.append(role)
    if not had:
        raise AccessError(
            f"{folder} has no key {name!r} to {' or '.join(roles)}; heatline keys list shows which it has"
        )
    return had


class AllowList:
    """The current allow-lists of a folder. Any thread.

    A file or folder that is damaged, or that others can write, authorizes nobody. It is logged, and the other keys stay
    allowed. If files cannot be read for lack of memory or descriptors, the lists stay as they were: otherwise a client
    that opens many connections would disconnect all others.

    Args:
        folder: None: nobody is allowed.
        own: the line's public key, which is allowed in every role: who can read its private half is the line.
    """

    def __init__(self, folder: Path | None, own: bytes) -> None:
        self._folder, self._own = folder, own
        self._lock = threading.Lock()
        self._keys: dict[Role, frozenset[bytes]] = {role: frozenset({own}) for role in ROLES}
        self._refreshed_s = float("-inf")
        self._faults: list[str] = []

    def require_valid(self) -> None:
        """Require that all files can be trusted.

        Raises:
            AccessError: there is no folder, or a file in it cannot be read, is not a key, or can be written by others.
        """
        if self._folder is None or not self._folder.is_dir():
            raise AccessError(
                f"there is no folder {self._folder} of keys that may connect; allow one with "
                f"heatline keys allow CLIENT.key.pub --role listen --allowed {self._folder}"
            )
        for role in ROLES:
            allowed_keys(self._folder, role)

    def refresh(self, at_most_s_old: float = 0.0) -> None:
        """Read the folder again, unless it was read at most this many seconds ago."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._refreshed_s <= at_most_s_old:
                return
            faults: list[str] = []
            self._keys = {role: frozenset({self._own, *self._read(role, faults)}) for role in ROLES}
            self._refreshed_s = now_s
            if faults != self._faults:  # log each fault once
                for fault in faults:
                    logger.error("%s", fault)
            self._faults = faults

    def allows(self, role: Role, key: bytes) -> bool:
        """Return whether a key is allowed in a role, as of the last refresh."""
        return key in self._keys[role]

    def _read(self, role: Role, faults: list[str]) -> Collection[bytes]:
        if self._folder is None:
            return []
        found: list[bytes] = []
        try:
            files = files_in(self._folder / role, AccessError)
        except AccessError as error:
            if _is_for_want_of_something(error):
                return self._as_before(role, error, faults)
            faults.append(f"nobody is allowed to {role}: {error}")
            return found
        for path in files:
            try:
                found.append(parse_public_key(read_trusted(path, AccessError), path))
            except AccessError as error:
                if _is_for_want_of_something(error):
                    return self._as_before(role, error, faults)
                if path.exists():  # otherwise it was revoked just now
                    faults.append(f"a key is not allowed to {role}: {error}")
        return found

    def _as_before(self, role: Role, error: AccessError, faults: list[str]) -> Collection[bytes]:
        faults.append(f"the keys that may {role} stay as they were: {error}")
        return self._keys[role]


def _is_for_want_of_something(error: AccessError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _SHORTAGES
