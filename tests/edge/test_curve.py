"""Keys of lines and clients: files that other ZeroMQ programs read too, and never taken for what they are not."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle.keys import make_key
from edge.delivery.security.curve import (
    ClientKeys,
    fingerprint,
    make_key_pair,
    parse_public_key,
    read_key_pair,
    read_public_key,
)
from edge.errors import AccessError
from edge.key_files import LARGEST_KEY_FILE, public_half

WITHIN_MS = 20_000


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(AccessError) as caught:
        action()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key_pair(tmp_path / "line.key")
    return tmp_path / "line.key"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_key_is_its_owners_alone_and_its_public_half_everybodys(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        pair = make_key_pair(tmp_path / "k")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"k": 0o600, "k.pub": 0o644}
    assert read_key_pair(tmp_path / "k") == pair
    assert read_public_key(tmp_path / "k.pub") == pair.public


def test_the_secret_does_not_show_where_a_key_is_printed(key: Path) -> None:
    pair = read_key_pair(key)
    assert pair.secret.decode() not in repr(ClientKeys(pair, pair.public))


def test_pyzmq_reads_our_files_as_its_own(key: Path) -> None:
    pair = read_key_pair(key)
    assert zmq.auth.load_certificate(key) == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(public_half(key)) == (pair.public, None)


def test_files_that_pyzmq_made_are_read_too(tmp_path: Path) -> None:
    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "other", {"name": "MES"})
    os.chmod(secret_file, 0o600)
    public, secret = zmq.auth.load_certificate(secret_file)
    pair = read_key_pair(Path(secret_file))
    assert (pair.public, pair.secret) == (public, secret)
    assert read_public_key(Path(public_file)) == public


def test_a_client_and_a_line_with_such_keys_understand_each_other(tmp_path: Path, address: str) -> None:
    line, client = make_key_pair(tmp_path / "line"), make_key_pair(tmp_path / "client")
    keys = ClientKeys.read(tmp_path / "client", tmp_path / "line.pub")
    assert (keys.own, keys.line) == (client, line.public)
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        pull.setsockopt(zmq.CURVE_SERVER, 1)
        pull.setsockopt(zmq.CURVE_SECRETKEY, line.secret)
        pull.bind(address)
        push.setsockopt(zmq.LINGER, 0)
        keys.apply(push)
        push.connect(address)
        push.send(b"said")
        assert pull.poll(WITHIN_MS)
        assert pull.recv() == b"said"


def test_no_two_keys_are_the_same_and_each_has_its_fingerprint(tmp_path: Path) -> None:
    pairs = [make_key_pair(tmp_path / str(number)) for number in range(3)]
    assert len({pair.secret for pair in pairs}) == 3
    assert len({fingerprint(pair.public) for pair in pairs}) == 3


@pytest.mark.parametrize("taken", ["k", "k.pub"])
def test_a_key_never_takes_the_place_of_another_file(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    assert f"{tmp_path / taken} exists already" in refusal(lambda: make_key_pair(tmp_path / "k"))
    assert [path.name for path in tmp_path.iterdir()] == [taken]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_can_be_made_for_another_user(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "k", owner_uid=4242)
    assert {path.name: path.stat().st_uid for path in tmp_path.iterdir()} == {"k": 4242, "k.pub": 0}
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o777, 0o610])
def test_a_private_key_that_others_may_use_is_refused(key: Path, loose: int) -> None:
    key.chmod(loose)
    sentence = refusal(lambda: read_key_pair(key))
    assert f"mode {loose:04o}, expected 0600" in sentence
    assert f"chmod 600 {key}" in sentence


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def swapped(data: bytes, name: bytes) -> bytes:
    """With one character of a key's changed: still Z85, another key."""
    at = data.index(name + b' = "') + len(name) + 4
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]


def test_a_private_key_that_is_none_is_refused(tmp_path: Path, key: Path) -> None:
    whole = key.read_bytes()
    for data in (
        b"",
        b"no key",
        b"\xff" * 200_000,
        whole[: whole.index(b"public-key") + 20],
        whole.replace(b"public-key", b"pubic-key"),
        swapped(whole, b"public-key"),
        swapped(whole, b"secret-key"),
        whole.replace(b'public-key = "', b'public-key = "~'),
    ):
        path = write(tmp_path / "k", data)
        assert f"{path} holds no CurveZMQ key, or a damaged one" in refusal(lambda path=path: read_key_pair(path))


def test_a_file_of_two_private_keys_is_refused(tmp_path: Path, key: Path) -> None:
    other = zmq.curve_keypair()[1]
    path = write(tmp_path / "k", key.read_bytes() + b'    secret-key = "' + other + b'"\n')
    assert "holds a public key and no private one" in refusal(lambda: read_key_pair(path))


def test_a_key_to_sign_bundles_with_is_another_kind(tmp_path: Path) -> None:
    make_key(tmp_path / "maker.key")
    assert "holds no CurveZMQ key" in refusal(lambda: read_key_pair(tmp_path / "maker.key"))
    assert "holds no CurveZMQ public key" in refusal(lambda: read_public_key(tmp_path / "maker.key.pub"))
    assert "holds a private key" in refusal(lambda: read_public_key(tmp_path / "maker.key"))


def test_the_halves_are_not_taken_for_each_other(key: Path) -> None:
    public_half(key).chmod(0o600)
    assert "holds a public key and no private one" in refusal(lambda: read_key_pair(public_half(key)))
    assert f"{key} holds a private key, which stays with its owner" in refusal(lambda: read_public_key(key))


def test_a_key_that_is_no_plain_file_is_refused_at_once(tmp_path: Path, key: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(key)
    for path, words in [
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "pipe", "it is a pipe, expected a plain file"),
        (tmp_path, "it is a folder, expected a plain file"),
        (tmp_path / "link", "it is a symbolic link, expected a plain file"),
        (Path("/dev/null"), "it is a device, expected a plain file"),
    ]:
        assert words in refusal(lambda path=path: read_key_pair(path))  # type: ignore[misc]
        assert words in refusal(lambda path=path: read_public_key(path))  # type: ignore[misc]


def test_a_public_key_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "k.pub", b"#" * (LARGEST_KEY_FILE + 1))
    assert "it is larger than 65,536 bytes" in refusal(lambda: read_public_key(path))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda some: b'public-key = "' + some + b'"'))
def test_no_bytes_do_more_than_be_refused_or_be_a_key_that_zeromq_takes(data: bytes) -> None:
    try:
        key = parse_public_key(data, Path("k.pub"))
    except AccessError:
        return
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.CURVE_SERVERKEY, key)


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_read_as_they_were_written(raw: bytes) -> None:
    text = zmq.utils.z85.encode(raw)
    assert parse_public_key(b'curve\n    public-key = "' + text + b'"\n', Path("k.pub")) == text
