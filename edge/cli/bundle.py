"""`heatline bundle`: shows, verifies, compares, signs and trusts bundles."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine, sign_bundle
from heatline.edge.bundle.signature import (
    TRUSTED_KEYS,
    describe_signer,
    fingerprint,
    make_key,
    read_private_key,
    read_public_key,
    signer_of,
    trust_key,
    trusted_keys,
)
from heatline.edge.bundle.store import open_screening
from heatline.edge.cli.bundle_formatting import bundle_facts, describe_differences, fingerprint_of
from heatline.edge.cli.calibrate import set_reference
from heatline.edge.cli.output import (
    CommandGroup,
    Rows,
    engine_option,
    facts_of,
    json_option,
    precision_option,
    print_made_key,
    print_report,
)
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.keys import StoredKey, public_half
from heatline.edge.util.text import format_count, is_are

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LONGEST_SHOWN = 120
"""Characters of a value in a table."""

BundleArgument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))


@click.group(cls=CommandGroup, epilog="Example: heatline bundle verify boards.bundle")
def bundle() -> None:
    """Show, verify, compare and sign bundles, and set what frames are compared with."""


bundle.add_command(set_reference)


@bundle.command(epilog="Example: heatline bundle show boards.bundle --json")
@BundleArgument
@json_option
def show(bundle_path: Path, as_json: bool) -> None:
    """Verify the files of BUNDLE and print its manifest.

    --json prints the manifest, its digest, and the fingerprint of the key that signed it.
    """
    opened = open_bundle(bundle_path)
    report = {"digest": opened.digest, "signed_by": fingerprint_of(opened), "manifest": opened.manifest}
    print_report(report, as_json, f"{opened.manifest.name} {opened.manifest.version}", bundle_facts(opened))


@bundle.command(epilog="Example: heatline bundle verify boards.bundle --engine onnxruntime")
@BundleArgument
@engine_option
@precision_option
@click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path),
    help=f"Refuse BUNDLE unless a key of this folder signed it. Default: only print if a key of {TRUSTED_KEYS} did.",
)
@json_option
def verify(bundle_path: Path, kind: EngineKind, precision: Precision, folder: Path | None, as_json: bool) -> None:
    """Verify every file of BUNDLE and its signature, if it has one, and run its golden tiles on this machine."""
    opened = open_bundle(bundle_path)
    signer = signer_of(opened.path, opened.signed_by, folder or TRUSTED_KEYS, required=folder is not None)
    verified = open_verified_engine(opened, kind, precision)
    engine = verified.engine
    if opened.manifest.screening is not None:
        open_screening(opened).close()
    report = _identify(opened) | {
        "signed_by": signer,
        "engine": engine.name,
        "precision": engine.precision,
        "fell_back": verified.fell_back,
        "golden_tiles": len(opened.golden().tiles),
        "off_by": verified.differences,
        "allowed": opened.manifest.tolerances[engine.precision],
    }
    off_by = describe_differences(verified.differences)
    facts = facts_of(report, signed_by=describe_signer(signer), off_by=None, allowed=None) | {
        "golden tiles": f"{report['golden_tiles']}, off by {off_by} of the scale, {report['allowed']:.1e} allowed"
    }
    print_report(report, as_json, f"{bundle_path} is whole and works on this machine in {verified.computes_in}", facts)


@bundle.command(epilog="Example: heatline bundle diff boards.bundle boards-cal1.bundle")
@click.argument("a_path", metavar="A", type=click.Path(path_type=Path))
@click.argument("b_path", metavar="B", type=click.Path(path_type=Path))
@json_option
def diff(a_path: Path, b_path: Path, as_json: bool) -> None:
    """Verify the files of bundles A and B, and print each key of the manifest that differs, and the signers."""
    a, b = open_bundle(a_path), open_bundle(b_path)
    of_a, of_b = (_identify(each) | dict(_flat(msgspec.to_builtins(each.manifest))) for each in (a, b))
    values = {key: (of_a.get(key), of_b.get(key)) for key in {**of_a, **of_b}}
    changes = {key: each for key, each in values.items() if each[0] != each[1]}
    title = f"{format_count(len(changes), 'key')} of {a_path} and {b_path} {is_are(len(changes))} different"
    rows = [(key, *map(_shorten, each)) for key, each in changes.items()]
    print_report({"same": not changes, "changes": changes}, as_json, title, rows=Rows(("", "A", "B"), rows))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables by their dotted keys; a list counts as one value."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _flat(inside, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _identify(opened: Bundle) -> dict[str, object]:
    return {
        "name": opened.manifest.name,
        "version": opened.manifest.version,
        "digest": opened.digest,
        "signed_by": fingerprint_of(opened),
    }


def _shorten(value: object) -> str:
    """Return a value of the table; --json prints all of it."""
    text = value if isinstance(value, str) else "-" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


@bundle.command(epilog="Example: heatline bundle keygen maker.key")
@click.argument("key_path", metavar="KEY", type=click.Path(path_type=Path))
@json_option
def keygen(key_path: Path, as_json: bool) -> None:
    """Make a key to sign bundles with: KEY, only for its owner, and KEY.pub, for every machine that shall trust it.

    Neither file is ever overwritten. KEY has no password: keep it only where bundles are made.
    """
    print_made_key(key_path, public_half(key_path), "ed25519", fingerprint(make_key(key_path)), as_json)


@bundle.command(epilog="Example: heatline bundle sign boards.bundle --key maker.key")
@BundleArgument
@click.option(
    "--key", "key_path", required=True, type=click.Path(path_type=Path), help="Private key, made by bundle keygen."
)
@json_option
def sign(bundle_path: Path, key_path: Path, as_json: bool) -> None:
    """Verify every file of BUNDLE and sign it. A bundle has one signature: the new one replaces the old one."""
    key = read_private_key(key_path)
    opened = open_bundle(bundle_path)
    sign_bundle(opened, key)
    before = fingerprint_of(opened)
    report = {**_identify(opened), "signed_by": fingerprint(key.public_key()), "replaced": before}
    replaced = "nothing, it was not signed" if before is None else f"the signature by key {before}"
    print_report(report, as_json, f"{bundle_path} is signed", facts_of(report, replaced=replaced))


@bundle.command(epilog="Example: heatline bundle trust maker.key.pub --name maker")
@click.argument("key_path", metavar="[KEY.pub]", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="What to call the key here. Default: its file's name.")
@click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path),
    default=TRUSTED_KEYS,
    show_default=True,
    help="Folder of trusted keys.",
)
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
        facts = {each.name: fingerprint(each.key) for each in listed}
        print_report(report, as_json, f"{len(listed)} trusted in {folder}", facts)
        return
    key = read_public_key(key_path)
    taken = trust_key(key, key_path.name.removesuffix(".pub") if name is None else name, folder)
    print_report(_to_report(taken), as_json, f"{key_path} is trusted", _to_report(taken))


def _to_report(trusted: StoredKey["Ed25519PublicKey"]) -> dict[str, str]:
    return {"name": trusted.name, "fingerprint": fingerprint(trusted.key), "file": str(trusted.path)}
