"""`heatline keys`: allows and revokes clients on the line PC."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from heatline.edge.cli.keys import keys
from heatline.edge.delivery.auth import fingerprint, read_key_pair, read_public_key
from heatline.edge.errors import AccessError


class Typed:
    """Commands with one folder of allow-lists."""

    def __init__(self, folder: Path) -> None:
        self.allowed = folder / "keys" / "allowed"

    def run(self, command: str, *arguments: str | Path) -> str:
        options = [] if command == "new" else ["--allowed", self.allowed]
        result = CliRunner().invoke(keys, [command, *map(str, (*options, *arguments))])
        if result.exception is not None:
            raise result.exception
        return result.output

    def refusal(self, command: str, *arguments: str | Path) -> str:
        with pytest.raises(AccessError) as caught:
            self.run(command, *arguments)
        return str(caught.value)


@pytest.fixture
def typed(tmp_path: Path) -> Typed:
    return Typed(tmp_path)


@pytest.fixture
def mes(typed: Typed, tmp_path: Path) -> Path:
    """A client's new key."""
    typed.run("new", tmp_path / "mes.key")
    return tmp_path / "mes.key"


def test_a_key_is_made_allowed_listed_and_revoked(typed: Typed, tmp_path: Path) -> None:
    mes = tmp_path / "mes.key"
    report = json.loads(typed.run("new", mes, "--json"))
    known = fingerprint(read_key_pair(mes).public)
    public = f"{mes}.pub"
    assert report == {"private": str(mes), "public": public, "algorithm": "curve25519", "fingerprint": known}
    assert typed.run("list").startswith("0 allowed in")
    report = json.loads(typed.run("allow", public, "--role", "listen", "--role", "follow", "--json"))
    files = [typed.allowed / role / "mes.pub" for role in ("listen", "follow")]
    assert report["files"] == [str(file) for file in files]
    assert {read_public_key(file) for file in files} == {read_key_pair(mes).public}
    listed = json.loads(typed.run("list", "--json"))
    assert listed == {"keys": [{"name": "mes", "fingerprint": known, "roles": ["listen", "follow"]}]}
    assert "mes (listen, follow)" in typed.run("list")

    assert json.loads(typed.run("revoke", "mes", "--json")) == {"name": "mes", "revoked": ["listen", "follow"]}
    assert json.loads(typed.run("list", "--json")) == {"keys": []}
    assert "has no key 'mes'" in typed.refusal("revoke", "mes")


def test_a_private_key_is_not_allowed_in_place_of_its_public_half(typed: Typed, mes: Path) -> None:
    assert "stays with its owner" in typed.refusal("allow", mes, "--role", "listen")
    assert not typed.allowed.exists()


def test_a_name_is_one_key_per_role_and_no_path(typed: Typed, mes: Path, tmp_path: Path) -> None:
    typed.run("new", tmp_path / "other.key")
    typed.run("allow", f"{mes}.pub", "--role", "command")
    taken = "--role", "command", "--name", "mes"
    assert "has another key with the name 'mes'" in typed.refusal("allow", tmp_path / "other.key.pub", *taken)
    again = json.loads(typed.run("allow", f"{mes}.pub", "--role", "command", "--name", "again", "--json"))
    assert again["name"] == "mes", "it is there already"
    for elsewhere in ("", "../command/mes", "/etc/passwd"):
        assert "is not a name for a key" in typed.refusal("revoke", "--", elsewhere)
        assert "is not a name for a key" in typed.refusal(
            "allow", f"{mes}.pub", "--role", "listen", "--name", elsewhere
        )
    assert [path.name for path in typed.allowed.rglob("*.pub")] == ["mes.pub"]
