"""Who may connect to a line from another machine: a folder with one of public keys for each role.

Commands write it, and a running line reads it again and again.
"""

import errno
import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge.delivery.security.curve import parse_public_key, to_file
from edge.errors import AccessError
from edge.key_files import PUBLIC_SUFFIX, files_in, name_of, put, read_trusted, require_name

logger = logging.getLogger(__name__)

Role = Literal["listen", "follow", "command"]
"""What a client may do: take live events, be a durable consumer and read the journal, ask something of the line."""
ROLES: tuple[Role, ...] = get_args(Role)
ALLOWED_KEYS = Path("/etc/heatline/keys/allowed")
"""Where a machine's allow-lists lie unless another folder is named."""
_SHORTAGES = errno.EMFILE, errno.ENFILE, errno.ENOMEM


@dataclass(frozen=True)
class AllowedKey:
    """A key that may connect in a role; its name is what the folder calls it."""

    name: str
    key: bytes
    """Z85."""
    role: Role
    path: Path


def allowed_keys(folder: Path, role: Role) -> list[AllowedKey]:
    """All keys of a role, by name; none where there is no folder.

    Raises:
        AccessError: the folder or a key cannot be read, or others can write it.
    """
    return [
        AllowedKey(name_of(path), parse_public_key(read_trusted(path, AccessError), path), role, path)
        for path in files_in(folder / role, AccessError)
    ]


def allow(key: bytes, name: str, folder: Path, role: Role) -> AllowedKey:
    """Let a key in for a role, in a folder that is made if there is none. One that is there already stays.

    Raises:
        AccessError: the name is none, or is another key's, or the folder cannot be written, or others can write it.
    """
    require_name(name, AccessError)
    for other in allowed_keys(folder, role):
        if other.key == key:
            return other
    return AllowedKey(name, key, role, put(to_file(key), name, folder / role, AccessError, "--allowed"))


def revoke(name: str, folder: Path, roles: Collection[Role] = ROLES) -> list[Role]:
    """Let a key in no longer; the roles that it had of these.

    Raises:
        AccessError: the name is none, the key has none of the roles, or the folder cannot be written.
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
    """The allow-lists of a folder, as they are now. Any thread.

    What cannot be believed lets nobody in: a key's file that is damaged or that others can write, a folder of which
    that is so. It is logged, and the other keys are let in. What cannot be read for want of memory or descriptors stays
    as it was: else whoever opens many connections would have all others cut off.

    Args:
        folder: None: nobody is allowed.
        own: the line's public key, which may do everything: whoever can read its private half is the line.
    """

    def __init__(self, folder: Path | None, own: bytes) -> None:
        self._folder, self._own = folder, own
        self._lock = threading.Lock()
        self._keys: dict[Role, frozenset[bytes]] = {role: frozenset({own}) for role in ROLES}
        self._looked_s = float("-inf")
        self._faults: list[str] = []

    def require_sound(self) -> None:
        """See that all that is there can be believed.

        Raises:
            AccessError: there is no folder, or something in it cannot be read, is no key, or others can write it.
        """
        if self._folder is None or not self._folder.is_dir():
            raise AccessError(
                f"there is no folder {self._folder} of keys that may connect; let one in with "
                f"heatline keys allow CLIENT.key.pub --role listen --allowed {self._folder}"
            )
        for role in ROLES:
            allowed_keys(self._folder, role)

    def look(self, at_most_s_old: float = 0.0) -> None:
        """Read the folder again, unless it was read so many seconds ago at most."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._looked_s <= at_most_s_old:
                return
            faults: list[str] = []
            self._keys = {role: frozenset({self._own, *self._read(role, faults)}) for role in ROLES}
            self._looked_s = now_s
            if faults != self._faults:  # once, and not at every look
                for fault in faults:
                    logger.error("%s", fault)
            self._faults = faults

    def allows(self, role: Role, key: bytes) -> bool:
        """Whether a key was let in for a role when last looked."""
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
            faults.append(f"nobody is let in to {role}: {error}")
            return found
        for path in files:
            try:
                found.append(parse_public_key(read_trusted(path, AccessError), path))
            except AccessError as error:
                if _is_for_want_of_something(error):
                    return self._as_before(role, error, faults)
                if path.exists():  # else it was revoked just now
                    faults.append(f"a key is not let in to {role}: {error}")
        return found

    def _as_before(self, role: Role, error: AccessError, faults: list[str]) -> Collection[bytes]:
        faults.append(f"who may {role} stays as it was: {error}")
        return self._keys[role]


def _is_for_want_of_something(error: AccessError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _SHORTAGES
