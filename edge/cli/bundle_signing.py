"""`heatline bundle keygen`, `sign` and `trust`: signatures of bundles."""

from pathlib import Path

import click

from heatline.edge.bundle import open_bundle, sign_bundle
from heatline.edge.bundle.signature import (
    TRUSTED_KEYS,
    PublicKey,
    make_key,
    read_private_key,
    read_public_key,
    trust_key,
    trusted_keys,
)
from heatline.edge.cli.output import facts_of, json_option, print_made_key, print_report
from heatline.edge.keys import StoredKey, public_half

keys_option = click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path),
    default=TRUSTED_KEYS,
    show_default=True,
    help="Folder of trusted keys.",
)


@click.command(epilog="Example: heatline bundle keygen maker.key")
@click.argument("key_path", metavar="KEY", type=click.Path(path_type=Path))
@json_option
def keygen(key_path: Path, as_json: bool) -> None:
    """Make a key to sign bundles with: KEY, only for its owner, and KEY.pub, for every machine that shall trust it.

    Neither file is ever overwritten. KEY has no password: keep it only where bundles are made.
    """
    public = make_key(key_path)
    print_made_key(key_path, public_half(key_path), "ed25519", public.fingerprint, as_json)


@click.command(epilog="Example: heatline bundle sign boards.bundle --key maker.key")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--key", "key_path", required=True, type=click.Path(path_type=Path), help="Private key, made by bundle keygen."
)
@json_option
def sign(bundle_path: Path, key_path: Path, as_json: bool) -> None:
    """Verify every file of BUNDLE and sign it. A bundle has one signature: the new one replaces the old one."""
    key = read_private_key(key_path)
    opened = open_bundle(bundle_path)
    sign_bundle(opened, key)
    before = None if opened.signed_by is None else opened.signed_by.fingerprint
    report = {
        "name": opened.manifest.name,
        "version": opened.manifest.version,
        "digest": opened.digest,
        "signed_by": key.public.fingerprint,
        "replaced": before,
    }
    replaced = "nothing, it was not signed" if before is None else f"the signature by key {before}"
    print_report(report, as_json, f"{bundle_path} is signed", facts_of(report) | {"replaced": replaced})


@click.command(epilog="Example: heatline bundle trust maker.key.pub --name maker")
@click.argument("key_path", metavar="[KEY.pub]", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="What to call the key here. Default: its file's name.")
@keys_option
@json_option
def trust(key_path: Path | None, name: str | None, folder: Path, as_json: bool) -> None:
    """Make this machine trust bundles that are signed with KEY.pub's key. Without KEY.pub, list the trusted keys.

    Compare the fingerprint with its owner's over another channel, such as the telephone. To stop trusting a key, delete
    its file.
    """
    if key_path is None:
        if name is not None:
            raise click.UsageError("--name needs the key's file: name KEY.pub too")
        listed = trusted_keys(folder)
        report = {"keys": [_to_report(each) for each in listed]}
        facts = {each.name: each.key.fingerprint for each in listed}
        print_report(report, as_json, f"{len(listed)} trusted in {folder}", facts)
        return
    key = read_public_key(key_path)
    taken = trust_key(key, key_path.name.removesuffix(".pub") if name is None else name, folder)
    print_report(_to_report(taken), as_json, f"{key_path} is trusted", _to_report(taken))


def _to_report(trusted: StoredKey[PublicKey]) -> dict[str, str]:
    return {"name": trusted.name, "fingerprint": trusted.key.fingerprint, "file": str(trusted.path)}
