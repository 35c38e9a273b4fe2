"""Key files of both kinds, the allow-lists of a line, and the keys a machine trusts.

Only its owner can read a new private key.
"""

import dataclasses
import os
import re
import stat
from collections.abc import Callable
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth
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

from heatline.edge.bundle import signature as signing
from heatline.edge.bundle.signature import trust_key, trusted_keys
from heatline.edge.delivery import auth
from heatline.edge.delivery.auth import is_local, unprotected
from heatline.edge.errors import AccessError, BundleError, HeatlineError
from heatline.edge.keys import LARGEST_KEY_FILE, public_half
from tests.command import sentence_of
from tests.edge.secured import Secured


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of keys: functions that create and read them, and the messages for files without a key."""

    make: Callable[[Path], Any]
    read_private: Callable[[Path], Any]
    read_public: Callable[[Path], Any]
    public_of: Callable[[Any], Any]
    error: type[HeatlineError]
    no_private: str
    no_public: str

    def refusal(self, action: Callable[..., object], *arguments: object) -> str:
        """Return the one sentence with which an action is refused."""
        return sentence_of(self.error, action, *arguments)


SIGNING = Kind(
    signing.make_key,
    signing.read_private_key,
    signing.read_public_key,
    methodcaller("public_key"),
    BundleError,
    "holds no ed25519 private key in PEM without a password",
    "holds no ed25519 public key",
)
CURVE = Kind(
    auth.make_key_pair,
    auth.read_key_pair,
    auth.read_public_key,
    attrgetter("public"),
    AccessError,
    "holds no CurveZMQ key, or a damaged one",
    "holds no CurveZMQ public key",
)


@pytest.fixture(params=[SIGNING, CURVE], ids=["signing", "curve"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(path: Path, data: bytes) -> Path:
    """Write a file that only its owner can access."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_the_owner_can_read_a_private_key_and_others_its_public_half_and_trusted_keys(
    kind: Kind, tmp_path: Path, umask: int
) -> None:
    made, trusted = tmp_path / "made", tmp_path / "keys"
    made.mkdir()
    before = os.umask(umask)
    try:
        kind.make(made / "k")
        taken = trust_key(signing.make_key(tmp_path / "maker.key"), "maker", trusted)
    finally:
        os.umask(before)
    assert {path.name: mode(path) for path in made.iterdir()} == {"k": 0o600, "k.pub": 0o644}
    assert kind.public_of(kind.read_private(made / "k")) == kind.read_public(made / "k.pub")
    assert (mode(trusted), mode(taken.path)) == (0o755, 0o644), "the service is another user"


def test_a_new_key_never_overwrites_a_file(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "k").write_text("mine")
    (tmp_path / "p.pub").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, taken in (("k", "k"), ("p", "p.pub"), ("link", "link")):
        assert f"{tmp_path / taken} exists already" in kind.refusal(kind.make, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "link", "p.pub"]
    assert (tmp_path / "k").read_text() == (tmp_path / "p.pub").read_text() == "mine"
    assert "cannot be written (No such file or directory)" in kind.refusal(kind.make, tmp_path / "no" / "k")


def test_key_files_work_with_cryptography_and_pyzmq(tmp_path: Path) -> None:
    signing.make_key(tmp_path / "maker")
    private = load_pem_private_key((tmp_path / "maker").read_bytes(), None)
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


def swapped(data: bytes, name: bytes) -> bytes:
    """Change one character of a key, which stays valid Z85 but becomes another key."""
    at = data.index(name + b' = "') + len(name) + 4
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]


def test_a_file_that_holds_no_key_of_this_half_and_kind_is_refused(kind: Kind, tmp_path: Path) -> None:
    other_kind, of_a_curve = SIGNING if kind is CURVE else CURVE, generate_private_key(SECP256R1())
    key, other = tmp_path / "own.key", tmp_path / "other.key"
    kind.make(key)
    other_kind.make(other)
    whole = key.read_bytes()
    with_password = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    private = [
        *(b"", b"no key", b"\xff" * 200_000, whole[: len(whole) // 2], with_password, other.read_bytes()),
        of_a_curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ]
    if kind is CURVE:
        private += [swapped(whole, b"public-key"), swapped(whole, b"secret-key"), whole.replace(b'= "', b'= "~')]
    for data in private:
        path = written(tmp_path / "k", data)
        assert f"{path} {kind.no_private}" in kind.refusal(kind.read_private, path)
    assert "holds a public key and no private one" in kind.refusal(kind.read_private, public_half(key))

    public = [
        *(b"", b"ssh-ed25519 AAAA maker", b"-----BEGIN PUBLIC KEY-----\n", b"#" * (LARGEST_KEY_FILE + 1)),
        *(public_half(other).read_bytes(),),
        of_a_curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ]
    for data in public:
        assert kind.no_public in kind.refusal(kind.read_public, written(tmp_path / "k.pub", data))
    for data in (whole, with_password):
        path = written(tmp_path / "k.pub", data)
        assert f"{path} holds a private key, which stays with its owner" in kind.refusal(kind.read_public, path)


def test_a_key_is_trusted_under_its_name(tmp_path: Path) -> None:
    public, trusted = signing.make_key(tmp_path / "maker.key"), tmp_path / "keys"
    for name in ("", "..", ".hidden", "a/b", "../maker", "/etc/maker", "a\n", "a\0", "x" * 65, "-x"):
        assert "is not a name for a key" in SIGNING.refusal(trust_key, public, name, trusted)
    assert not trusted.exists()
    assert trusted_keys(trusted) == []
    taken = trust_key(public, "maker", trusted)
    assert taken.path == trusted / "maker.pub"
    assert trust_key(public, "another-name", trusted) == taken, "the key is there already"
    (trusted / "README").write_text("whose keys these are")
    assert trusted_keys(trusted) == [taken]
    taken.path.write_text("none")
    assert f"{taken.path} holds no ed25519 public key" in SIGNING.refusal(trusted_keys, trusted)
    assert "cannot be read (Not a directory)" in SIGNING.refusal(trusted_keys, trusted / "README")


def test_only_addresses_that_other_machines_reach_need_a_key() -> None:
    local = [f"tcp://{host}:5557" for host in ("127.0.0.1", "127.8.9.10", "localhost", "[::1]")]
    assert [address for address in (*local, "ipc://@commands") if not is_local(address)] == []
    reachable = [
        *(f"tcp://{host}:5557" for host in ("*", "0.0.0.0", "[::]", "[::ffff:192.0.2.1]", "192.168.0.4")),
        *(f"tcp://{host}:5557" for host in ("localhost.example.com", "127.0.0.1;192.0.2.1")),
        *("tcp://5557", "udp://127.0.0.1:5557", "127.0.0.1:5557", ""),
    ]
    assert [address for address in reachable if is_local(address)] == []
    sentence = unprotected("commands.bind", reachable[0])
    assert re.fullmatch(r".*heatline keys new .*chown heatline .*and set key = .* under.*", sentence)


def test_a_bad_key_file_stops_a_start_and_later_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secured = Secured(tmp_path)
    client, bad = secured.client("listen"), secured.allowed / "listen" / "bad.pub"
    for create, excerpt in [
        (lambda: bad.write_bytes((tmp_path / "line.key").read_bytes()), "holds a private key"),
        (lambda: bad.write_text("nonsense"), "holds no CurveZMQ public key"),
        (bad.mkdir, "Is a directory"),
    ]:
        bad.unlink(missing_ok=True)
        caplog.clear()
        allow_list = secured.access()
        create()
        for _ in range(3):
            allow_list.refresh()
            assert allow_list.allows("listen", client.own.public)
        assert not allow_list.allows("listen", secured.client().own.public)
        (logged,) = caplog.messages
        assert excerpt in logged
        with pytest.raises(AccessError, match=excerpt):
            secured.access()
