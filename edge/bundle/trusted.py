"""The trusted keys of a machine: public keys in a folder that only its administrator can write."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.bundle.keys import PublicKey, parse_public_key
from heatline.edge.bundle.store import Bundle
from heatline.edge.errors import BundleError
from heatline.edge.key_files import files_in, name_of, put, read_trusted, require_name

TRUSTED_KEYS = Path("/etc/heatline/trusted")
"""The default folder of a machine's trusted keys."""


@dataclass(frozen=True)
class TrustedKey:
    """One key of the folder, and its name there."""

    name: str
    key: PublicKey
    path: Path


class Signer(msgspec.Struct, frozen=True):
    """The signer of a bundle."""

    key: str
    """The key's fingerprint."""
    trusted_as: str | None
    """The key's name in the folder of trusted keys; none: the folder does not have it."""


def trusted_keys(folder: Path) -> list[TrustedKey]:
    """Return all keys of a folder, sorted by name; none if there is no folder.

    Raises:
        BundleError: the folder or a key cannot be read, or others can write it.
    """
    return [
        TrustedKey(name_of(path), parse_public_key(read_trusted(path, BundleError), path), path)
        for path in files_in(folder, BundleError)
    ]


def trust_key(key: PublicKey, name: str, folder: Path) -> TrustedKey:
    """Add a key to a folder of trusted keys, and create the folder if necessary. A key that is already there keeps its
    name.

    Raises:
        BundleError: the name is invalid or taken by another key, the folder cannot be written, or others can write it.
    """
    require_name(name, BundleError)
    for other in trusted_keys(folder):
        if other.key == key:
            return other
    path = put(key.to_pem(), name, folder, BundleError, "--keys")
    return TrustedKey(name, key, path)


def signer_of(bundle: Bundle, folder: Path) -> Signer | None:
    """Return a bundle's signer, with its name if a folder's keys include it; None if the bundle is not signed.

    Raises:
        BundleError: as in `trusted_keys`.
    """
    if bundle.signed_by is None:
        return None
    names = (each.name for each in trusted_keys(folder) if each.key == bundle.signed_by)
    return Signer(bundle.signed_by.fingerprint, next(names, None))


def require_trusted(bundle: Bundle, folder: Path) -> Signer:
    """Require that a bundle is signed by a key of a folder.

    Raises:
        BundleError: it is not.
    """
    signer = signer_of(bundle, folder)
    named = str(folder) if folder.exists() else f"{folder}, which does not exist"
    if signer is None:
        raise BundleError(
            f"{bundle.path} is not signed, expected a signature by a key of {named}; sign it with heatline bundle "
            "sign, or set allow_unsigned = true in the line's file"
        )
    if signer.trusted_as is None:
        raise BundleError(
            f"{bundle.path} is signed by key {signer.key}, which is not in {named}; if you know whose key that is, "
            "add it with heatline bundle trust, or set allow_unsigned = true in the line's file"
        )
    return signer


def describe_signer(signer: Signer | None) -> str:
    """Describe the signer, for people."""
    if signer is None:
        return "nobody"
    return f"{signer.trusted_as or 'nobody who is trusted here'}, key {signer.key}"
