"""`heatline keys new`, `list`, `allow`, `revoke` and `login`: access to a line from other machines."""

from pathlib import Path

import click

from heatline.edge.cli.output import CommandGroup, json_option, print_made_key, print_report
from heatline.edge.delivery.auth import (
    ALLOWED_KEYS,
    ROLES,
    Role,
    allow,
    allow_list,
    fingerprint,
    make_key_pair,
    read_key_pair,
    read_public_key,
    revoke,
)
from heatline.edge.keys import PUBLIC_SUFFIX, public_half
from heatline.edge.monitor.login import make_code

allowed_option = click.option(
    "--allowed",
    "folder",
    type=click.Path(path_type=Path),
    default=ALLOWED_KEYS,
    show_default=True,
    help="Folder of the allow-lists: security.allowed of the line.",
)


@click.group(cls=CommandGroup, epilog="Example: heatline keys allow mes.key.pub --role follow")
def keys() -> None:
    """Make keys of lines and clients, and allow clients to connect.

    Needed if other machines can reach an address of a line.
    """


@keys.command(epilog="Example: heatline keys new /etc/heatline/keys/line.key")
@click.argument("key_path", metavar="KEY", type=click.Path(path_type=Path))
@json_option
def new(key_path: Path, as_json: bool) -> None:
    """Make a key of a line or of a client: KEY, only for its owner, and KEY.pub, for the others.

    Neither file is ever overwritten. KEY has no password: keep it only where it is used. The key of a line
    must belong to the user of its service: chown heatline KEY.
    """
    print_made_key(key_path, public_half(key_path), "curve25519", fingerprint(make_key_pair(key_path).public), as_json)


@keys.command("list", epilog="Example: heatline keys list")
@allowed_option
@json_option
def list_keys(folder: Path, as_json: bool) -> None:
    """List the clients that may connect, and their roles."""
    found: dict[tuple[str, str], list[str]] = {}
    for role in ROLES:
        for each in allow_list(folder, role).all():
            found.setdefault((each.name, fingerprint(each.key)), []).append(role)
    listed = [{"name": name, "fingerprint": key, "roles": roles} for (name, key), roles in sorted(found.items())]
    facts = {f"{name} ({', '.join(roles)})": key for (name, key), roles in sorted(found.items())}
    print_report({"keys": listed}, as_json, f"{len(found)} allowed in {folder}", facts)


@keys.command("allow", epilog="Example: heatline keys allow mes.key.pub --role listen --role follow")
@click.argument("key_path", metavar="KEY.pub", type=click.Path(path_type=Path))
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    required=True,
    help="Access to live events, to the journal as a durable consumer, to commands; on the page, to marks and labels "
    "(reviewer), or to trainings and bundles too (engineer); may be repeated.",
)
@click.option("--name", help="What to call the key here. Default: its file's name.")
@allowed_option
@json_option
def allow_key(key_path: Path, roles: tuple[Role, ...], name: str | None, folder: Path, as_json: bool) -> None:
    """Allow the owner of KEY.pub to connect. A running line accepts the key within seconds.

    Compare the fingerprint with its owner's over another channel, such as the telephone.
    """
    key = read_public_key(key_path)
    of_file = key_path.name.removesuffix(PUBLIC_SUFFIX).removesuffix(".key")  # such as mes for mes.key.pub
    allowed = [allow(key, of_file if name is None else name, folder, role) for role in roles]
    report = {
        "name": allowed[0].name,
        "fingerprint": fingerprint(key),
        "roles": list(roles),
        "files": [str(each.path) for each in allowed],
    }
    facts = report | {name: ", ".join(report[name]) for name in ("roles", "files")}
    print_report(report, as_json, f"{key_path} is allowed", facts)


@keys.command("revoke", epilog="Example: heatline keys revoke mes")
@click.argument("name")
@allowed_option
@json_option
def revoke_key(name: str, folder: Path, as_json: bool) -> None:
    """Revoke the key NAME. A running line disconnects its clients within seconds."""
    revoked = revoke(name, folder)
    title = f"{name} is no longer allowed to {' or '.join(revoked)}"
    print_report({"name": name, "revoked": revoked}, as_json, title)


@keys.command("login", epilog="Example: heatline keys login ada.key --line-key line.key.pub")
@click.argument("key_path", metavar="KEY", type=click.Path(path_type=Path))
@click.option("--line-key", type=click.Path(path_type=Path), required=True, help="The line's public key.")
def login(key_path: Path, line_key: Path) -> None:
    """Print a code that logs the owner of KEY in to the page of a line, at /login.

    Only somebody at the line PC changes something on the page without it. The code is valid once, for some minutes; the
    clocks of both machines must agree. Allow the key before: heatline keys allow KEY.pub --role reviewer.
    """
    click.echo(make_code(read_key_pair(key_path), read_public_key(line_key)))
