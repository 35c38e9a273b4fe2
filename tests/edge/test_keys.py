"""Key files of both kinds, the allow-lists of a line, and the keys a machine trusts.

Only its owner can read a new private key.
"""

import dataclasses
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from zmq.utils import z85

from heatline.edge.bundle import signature as signing
from heatline.edge.bundle.signature import trust_key, trusted_keys
from heatline.edge.cli.keys import keys
from heatline.edge.delivery import auth
from heatline.edge.delivery.auth import (
    fingerprint,
    is_local,
    read_key_pair,
    read_public_key,
    unprotected,
)
from heatline.edge.errors import AccessError, BundleError, HeatlineError
from heatline.edge.keys import LARGEST_KEY_FILE, public_half
from tests.edge.secured import Secured


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of keys: functions that create and read them, and the messages for files without a key."""

    make: Callable[[Path], Any]
    read_private: Callable[[Path], Any]
    read_public: Callable[[Path], Any]
    error: type[HeatlineError]
    no_private: str
    no_public: str

    def refusal(self, action: Callable[..., object], *arguments: object) -> str:
        """Return the one sentence with which an action is refused."""
        with pytest.raises(self.error) as caught:
            action(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)


KINDS = {
    "signing": Kind(
        signing.make_key,
        signing.read_private_key,
        signing.read_public_key,
        BundleError,
        "holds no ed25519 private key in PEM without a password",
        "holds no ed25519 public key",
    ),
    "curve": Kind(
        auth.make_key_pair,
        auth.read_key_pair,
        auth.read_public_key,
        AccessError,
        "holds no CurveZMQ key, or a damaged one",
        "holds no CurveZMQ public key",
    ),
}

SIGNING, CURVE = KINDS.values()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def key(kind: Kind, tmp_path: Path) -> Path:
    """File of a private key, next to its public half."""
    kind.make(tmp_path / "own.key")
    return tmp_path / "own.key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(path: Path, data: bytes) -> Path:
    """Write a file that only its owner can access."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_the_owner_can_read_a_new_private_key(kind: Kind, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        kind.make(tmp_path / "k")
    finally:
        os.umask(before)
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {"k": 0o600, "k.pub": 0o644}
    assert kind.read_private(tmp_path / "k").public == kind.read_public(tmp_path / "k.pub")
    kind.make(tmp_path / "another")
    assert kind.read_public(tmp_path / "another.pub") != kind.read_public(tmp_path / "k.pub")


@pytest.mark.parametrize("taken", ["k", "k.pub"])
def test_a_new_key_never_overwrites_a_file(kind: Kind, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    assert f"{tmp_path / taken} exists already" in kind.refusal(kind.make, tmp_path / "k")
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_key_is_not_written_through_a_link(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    assert "exists already" in kind.refusal(kind.make, tmp_path / "k")
    assert not (tmp_path / "elsewhere").exists()
    assert "cannot be written (No such file or directory)" in kind.refusal(kind.make, tmp_path / "no" / "k")


def test_key_files_work_with_cryptography_and_pyzmq(tmp_path: Path) -> None:
    signing.make_key(tmp_path / "maker")
    private = load_pem_private_key((tmp_path / "maker").read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    assert private.public_key() == load_pem_public_key((tmp_path / "maker.pub").read_bytes())

    pair = auth.make_key_pair(tmp_path / "line")
    assert zmq.auth.load_certificate(tmp_path / "line") == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(tmp_path / "line.pub") == (pair.public, None)
    assert pair.secret.decode() not in repr(auth.ClientKeys(pair, pair.public)), "a log would show it"
    public_file, secret_file = map(Path, zmq.auth.create_certificates(tmp_path, "other", {"name": "MES"}))
    secret_file.chmod(0o600)
    read = auth.read_key_pair(secret_file)
    assert (read.public, read.secret) == zmq.auth.load_certificate(secret_file)
    assert auth.read_public_key(public_file) == read.public


def with_password() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def swapped(data: bytes, name: bytes) -> bytes:
    """Change one character of a key, which stays valid Z85 but becomes another key."""
    at = data.index(name + b' = "') + len(name) + 4
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]


def test_a_file_that_holds_no_private_key_is_refused(kind: Kind, key: Path, tmp_path: Path) -> None:
    whole = key.read_bytes()
    of_a_curve = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    bad = [b"", b"no key", b"\xff" * 200_000, whole[: len(whole) // 2], with_password(), of_a_curve]
    if kind is CURVE:
        bad += [swapped(whole, b"public-key"), swapped(whole, b"secret-key"), whole.replace(b'key = "', b'key = "~')]
    for data in bad:
        path = written(tmp_path / "k", data)
        assert f"{path} {kind.no_private}" in kind.refusal(kind.read_private, path)


def test_a_file_that_holds_no_public_key_is_refused(kind: Kind, tmp_path: Path) -> None:
    public = generate_private_key(SECP256R1()).public_key()
    of_a_curve = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for data, message in [
        *((data, kind.no_public) for data in (b"", b"ssh-ed25519 AAAA maker", b"-----BEGIN PUBLIC KEY-----\n")),
        (of_a_curve, kind.no_public),
        (b"#" * (LARGEST_KEY_FILE + 1), kind.no_public),
        (with_password(), "holds a private key, which stays with its owner"),
    ]:
        assert message in kind.refusal(kind.read_public, written(tmp_path / "k.pub", data))


def test_keys_of_the_other_half_or_kind_are_refused(kind: Kind, key: Path, tmp_path: Path) -> None:
    assert "holds a public key and no private one" in kind.refusal(kind.read_private, public_half(key))
    assert f"{key} holds a private key, which stays with its owner" in kind.refusal(kind.read_public, key)
    other = SIGNING if kind is CURVE else CURVE
    other.make(tmp_path / "other")
    assert kind.no_private in kind.refusal(kind.read_private, tmp_path / "other")
    assert kind.no_public in kind.refusal(kind.read_public, tmp_path / "other.pub")


@pytest.fixture
def public(tmp_path: Path) -> signing.PublicKey:
    return signing.make_key(tmp_path / "maker.key")


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """Path of the folder of trusted keys, which does not exist yet."""
    return tmp_path / "keys"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_key_is_trusted_under_its_name(public: signing.PublicKey, trusted: Path, umask: int) -> None:
    assert trusted_keys(trusted) == []
    before = os.umask(umask)
    try:
        taken = trust_key(public, "maker", trusted)
    finally:
        os.umask(before)
    assert taken.path == trusted / "maker.pub"
    assert (mode(trusted), mode(taken.path)) == (0o755, 0o644), "the service is another user"
    assert trust_key(public, "another-name", trusted) == taken, "the key is there already"
    (trusted / "README").write_text("whose keys these are")
    assert trusted_keys(trusted) == [taken]


def test_a_name_with_a_path_is_refused(public: signing.PublicKey, trusted: Path) -> None:
    for name in ("", "..", ".hidden", "a/b", "../maker", "/etc/maker", "a\n", "a\0", "x" * 65, "-x"):
        assert "is not a name for a key" in SIGNING.refusal(trust_key, public, name, trusted)
    assert not trusted.exists()


def test_a_file_without_a_key_in_the_trusted_folder_is_refused(trusted: Path) -> None:
    trusted.mkdir()
    (trusted / "maker.pub").write_text("none")
    assert f"{trusted / 'maker.pub'} holds no ed25519 public key" in SIGNING.refusal(trusted_keys, trusted)
    (trusted / "maker.pub").unlink()
    (trusted / "maker.pub").mkdir()
    assert "cannot be read (Is a directory)" in SIGNING.refusal(trusted_keys, trusted)
    (trusted / "README").touch()
    assert "cannot be read (Not a directory)" in SIGNING.refusal(trusted_keys, trusted / "README")


KEY = z85.encode(bytes(range(32)))


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


# Access.


def test_addresses_that_only_this_machine_reaches_need_no_key() -> None:
    for host in ("127.0.0.1", "127.8.9.10", "localhost", "[::1]"):
        assert is_local(f"tcp://{host}:5557")
    assert is_local("ipc://@commands")


@pytest.mark.parametrize(
    "reachable_address",
    [
        *(f"tcp://{host}:5557" for host in ("*", "0.0.0.0", "[::]", "[::ffff:192.0.2.1]", "192.168.0.4")),
        *(f"tcp://{host}:5557" for host in ("localhost.example.com", "127.0.0.1;192.0.2.1")),
        *("tcp://5557", "udp://127.0.0.1:5557", "127.0.0.1:5557", ""),
    ],
)
def test_addresses_that_other_machines_reach_need_a_key(reachable_address: str) -> None:
    assert not is_local(reachable_address)
    sentence = unprotected("commands.bind", reachable_address)
    assert re.search(r"heatline keys new .*chown heatline .*and set key = .* under", sentence)
    assert "\n" not in sentence


UNTRUSTWORTHY: dict[str, tuple[Callable[[Path], object], str]] = {
    "secret": (lambda bad: bad.write_bytes((bad.parents[2] / "line.key").read_bytes()), "holds a private key"),
    "damaged": (lambda bad: bad.write_text("nonsense"), "holds no CurveZMQ public key"),
    "folder": (lambda bad: bad.mkdir(), "Is a directory"),
}
"""Key files that a line must not trust: how to create each at a path, and the message."""


@pytest.mark.parametrize("kind", UNTRUSTWORTHY)
def test_an_untrustworthy_key_file_stops_a_start_and_later_excludes_no_other(
    secured: Secured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access()
    create, excerpt = UNTRUSTWORTHY[kind]
    create(secured.allowed / "listen" / "bad.pub")
    for _ in range(3):
        allow_list.refresh()
        assert allow_list.allows("listen", client.own.public)
    assert not allow_list.allows("listen", KEY)
    (logged,) = caplog.messages
    assert excerpt in logged
    with pytest.raises(AccessError, match=excerpt):
        secured.access()


# `heatline keys`: allows and revokes clients on the line PC.


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
