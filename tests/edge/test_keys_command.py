"""`heatline keys`: what is typed on the line PC to let a client in and out."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli.keys import keys
from edge.delivery.security.curve import fingerprint, read_key_pair, read_public_key
from edge.errors import AccessError, HeatlineError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(keys, [str(each) for each in arguments])


def said(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def complaint(*arguments: str | Path) -> str:
    error = run(*arguments).exception
    assert isinstance(error, AccessError)
    assert "\n" not in str(error)
    return str(error)


def test_a_key_is_made_allowed_listed_and_revoked(tmp_path: Path) -> None:
    mes, allowed = tmp_path / "mes.key", tmp_path / "keys" / "allowed"
    report = json.loads(said("new", mes, "--json"))
    assert report == {
        "private": str(mes),
        "public": f"{mes}.pub",
        "algorithm": "curve25519",
        "fingerprint": fingerprint(read_key_pair(mes).public),
    }
    report = json.loads(
        said("allow", f"{mes}.pub", "--role", "listen", "--role", "follow", "--allowed", allowed, "--json")
    )
    files = [allowed / role / "mes.pub" for role in ("listen", "follow")]
    assert report["files"] == [str(file) for file in files]
    assert {read_public_key(file) for file in files} == {read_key_pair(mes).public}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}
    listed = json.loads(said("list", "--allowed", allowed, "--json"))
    assert listed == {"keys": [{"name": "mes", "fingerprint": report["fingerprint"], "roles": ["listen", "follow"]}]}
    assert "mes (listen, follow)" in said("list", "--allowed", allowed)

    assert "not allowed any more to follow" in said("revoke", "mes", "--role", "follow", "--allowed", allowed)
    assert json.loads(said("list", "--allowed", allowed, "--json"))["keys"][0]["roles"] == ["listen"]
    assert json.loads(said("revoke", "mes", "--allowed", allowed, "--json")) == {"name": "mes", "revoked": ["listen"]}
    assert json.loads(said("list", "--allowed", allowed, "--json")) == {"keys": []}
    assert "has no key 'mes'" in complaint("revoke", "mes", "--allowed", allowed)


def test_where_nobody_was_allowed_nobody_is_listed(tmp_path: Path) -> None:
    assert said("list", "--allowed", tmp_path / "none").startswith("0 allowed in")


def test_a_private_key_is_not_allowed_in_place_of_its_public_half(tmp_path: Path) -> None:
    said("new", tmp_path / "mes.key")
    assert "stays with its owner" in complaint(
        "allow", tmp_path / "mes.key", "--role", "listen", "--allowed", tmp_path / "allowed"
    )
    assert not (tmp_path / "allowed").exists()


def test_a_name_stands_for_one_key_of_a_role(tmp_path: Path) -> None:
    for name in ("mes", "other"):
        said("new", tmp_path / f"{name}.key")
    allow = ("--role", "command", "--allowed", tmp_path / "allowed")
    said("allow", tmp_path / "mes.key.pub", *allow)
    assert "has another key that is called 'mes'" in complaint(
        "allow", tmp_path / "other.key.pub", "--name", "mes", *allow
    )
    again = json.loads(said("allow", tmp_path / "mes.key.pub", "--name", "again", "--json", *allow))
    assert again["name"] == "mes", "it is there already"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../listen/mes", "/etc/passwd", "a\n", "x" * 65, "-x"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    said("new", tmp_path / "mes.key")
    said("allow", tmp_path / "mes.key.pub", "--role", "listen", "--allowed", tmp_path / "allowed")
    for arguments in (
        ("allow", tmp_path / "mes.key.pub", "--role", "command", "--name", name),
        ("revoke", "--", name),
    ):
        options = ["--allowed", tmp_path / "allowed"]
        error = run(arguments[0], *options, *arguments[1:]).exception
        assert isinstance(error, HeatlineError)
        assert "is no name for a key" in str(error)
    assert (tmp_path / "allowed" / "listen" / "mes.pub").exists()


def test_an_owner_that_this_machine_has_not_is_told_and_no_key_is_made(tmp_path: Path) -> None:
    assert "no user 'nobody-of-that-name'" in complaint("new", tmp_path / "k", "--owner", "nobody-of-that-name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_is_made_for_the_service_by_root(tmp_path: Path) -> None:
    said("new", tmp_path / "line.key", "--owner", "nobody")
    assert (tmp_path / "line.key").stat().st_uid not in (0, os.geteuid())
    assert read_key_pair(tmp_path / "line.key")
