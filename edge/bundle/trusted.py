"""The keys that a machine trusts: public keys in a folder that only its administrator can write."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.bundle.keys import LARGEST_KEY_FILE, PUBLIC_SUFFIX, PublicKey, parse_public_key, write_new
from edge.bundle.plain_file import open_plain
from edge.bundle.store import Bundle
from edge.errors import BundleError

TRUSTED_KEYS = Path("/etc/heatline/trusted")
"""Where a machine's trusted keys lie unless another folder is named."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")


@dataclass(frozen=True)
class TrustedKey:
    """One key of the folder; its name is what the folder calls it."""

    name: str
    key: PublicKey
    path: Path


class Signer(msgspec.Struct, frozen=True):
    """Whose signature a bundle bears."""

    key: str
    """Its fingerprint."""
    trusted_as: str | None
    """What the folder of trusted keys calls it; none: it is not there."""


def trusted_keys(folder: Path) -> list[TrustedKey]:
    """All keys of a folder, by name; none where there is no folder.

    Raises:
        BundleError: the folder or a key cannot be read, or others can write it.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        _refuse_if_others_can_write(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(
            f"{folder} cannot be read ({error.strerror}); name a folder of trusted keys that everyone may read"
        ) from error
    return [TrustedKey(path.name.removesuffix(PUBLIC_SUFFIX), _read(path), path) for path in files]


def take_in(key: PublicKey, name: str, folder: Path) -> TrustedKey:
    """Put a key into a folder of trusted keys, which is made if there is none. One that is there already stays.

    Raises:
        BundleError: the name is none, or is another key's, or the folder cannot be written, or others can write it.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} is no name for a key; expected 1 to 64 letters, digits or any of _ . @ + -; name it with --name"
        )
    for other in trusted_keys(folder):
        if other.key == key:
            return other
    path = folder / f"{name}{PUBLIC_SUFFIX}"
    if path.exists():
        raise BundleError(f"{folder} has another key that is called {name!r}; name this one otherwise with --name")
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # whatever the umask: the service is another user
        _refuse_if_others_can_write(folder)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written ({error.strerror}); as root, or name another --keys") from error
    write_new(path, key.to_pem(), 0o644)
    return TrustedKey(name, key, path)


def signer_of(bundle: Bundle, folder: Path) -> Signer | None:
    """Who signed a bundle, and whether a folder's keys vouch for it; none where nobody signed.

    Raises:
        BundleError: as in `trusted_keys`.
    """
    if bundle.signed_by is None:
        return None
    known = (each.name for each in trusted_keys(folder) if each.key == bundle.signed_by)
    return Signer(bundle.signed_by.fingerprint, next(known, None))


def require_trusted(bundle: Bundle, folder: Path) -> Signer:
    """See that a bundle is signed by a key of a folder.

    Raises:
        BundleError: it is not.
    """
    signer = signer_of(bundle, folder)
    if signer is None:
        raise BundleError(
            f"{bundle.path} is not signed, expected a signature by a key of {folder}; sign it with heatline bundle "
            "sign, or set allow_unsigned = true in the line's file"
        )
    if signer.trusted_as is None:
        raise BundleError(
            f"{bundle.path} is signed by key {signer.key}, which is not in {folder}; if you know whose key that is, "
            "take it in with heatline bundle trust, or set allow_unsigned = true in the line's file"
        )
    return signer


def signer_in_words(signer: Signer | None) -> str:
    """Who signed, for people."""
    if signer is None:
        return "nobody"
    return f"{signer.trusted_as or 'nobody who is trusted here'}, key {signer.key}"


def _read(path: Path) -> PublicKey:
    try:
        with open_plain(path) as file:
            _refuse_loose(path, os.fstat(file.fileno()))
            data = file.read(LARGEST_KEY_FILE)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); everyone must be able to read it") from error
    return parse_public_key(data, path)


def _refuse_if_others_can_write(folder: Path) -> None:
    """Who can write a folder, or one above it, decides what is trusted."""
    resolved = folder.resolve()
    for place in dict.fromkeys([resolved, *resolved.parents, *folder.absolute().parents]):
        _refuse_loose(place, place.stat(), above=place != resolved)


def _refuse_loose(path: Path, found: os.stat_result, *, above: bool = False) -> None:
    """Of folders above, a sticky one will do, as /tmp is: nobody can replace there what is another's."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & WRITABLE_BY_OTHERS and not (above and mode & stat.S_ISVTX):
        raise BundleError(
            f"{path} can be written by others (mode {mode:04o}), who could then say which keys are trusted; "
            f"look at what is in it, then: chmod go-w {path}"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise BundleError(
            f"{path} belongs to user {found.st_uid}, who could then say which keys are trusted; look at what is in "
            f"it, then: chown root {path}"
        )
