"""Keys: made for their owner alone, read only where nobody else could have, and never taken for what they are not."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
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

from edge.bundle.keys import make_key, read_private_key, read_public_key
from edge.bundle.trusted import take_in, trusted_keys
from edge.errors import BundleError
from edge.key_files import LARGEST_KEY_FILE, public_half


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as caught:
        action()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "maker.key")
    return tmp_path / "maker.key"


# Making.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_key_is_its_owners_alone_and_its_public_half_everybodys(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        public = make_key(tmp_path / "k")
    finally:
        os.umask(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "k.pub"]
    assert (mode(tmp_path / "k"), mode(tmp_path / "k.pub")) == (0o600, 0o644)
    assert read_public_key(tmp_path / "k.pub") == read_private_key(tmp_path / "k").public == public
    assert re.fullmatch("[0-9a-f]{64}", public.fingerprint)


def test_other_tools_read_the_key_too(key: Path) -> None:
    private = load_pem_private_key(key.read_bytes(), None)
    public = load_pem_public_key(public_half(key).read_bytes())
    assert isinstance(private, Ed25519PrivateKey)
    assert private.public_key() == public


def test_no_two_keys_are_the_same(tmp_path: Path) -> None:
    assert make_key(tmp_path / "a") != make_key(tmp_path / "b")


@pytest.mark.parametrize("taken", ["k", "k.pub"])
def test_a_key_never_takes_the_place_of_another_file(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    assert f"{tmp_path / taken} exists already" in refusal(lambda: make_key(tmp_path / "k"))
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_key_does_not_follow_a_link_to_another_place(tmp_path: Path) -> None:
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    assert "exists already" in refusal(lambda: make_key(tmp_path / "k"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_where_no_file_can_be_is_an_error(tmp_path: Path) -> None:
    assert "cannot be written (No such file or directory)" in refusal(lambda: make_key(tmp_path / "no" / "k"))


# Private keys.


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o777, 0o610])
def test_a_private_key_that_others_may_use_is_refused_whoever_asks(key: Path, loose: int) -> None:
    key.chmod(loose)
    sentence = refusal(lambda: read_private_key(key))
    assert f"mode {loose:04o}, expected 0600" in sentence
    assert f"chmod 600 {key}" in sentence


@pytest.mark.parametrize("tight", [0o600, 0o400, 0o700])
def test_a_private_key_of_its_owner_alone_is_read(key: Path, tight: int) -> None:
    key.chmod(tight)
    assert read_private_key(key).public == read_public_key(public_half(key))


def with_password() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "data",
    [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 200_000, with_password(), of_another_kind()],
    ids=["empty", "text", "cut-off", "large", "password", "other-kind"],
)
def test_a_private_key_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(data)
    path.chmod(0o600)
    assert f"{path} holds no ed25519 private key in PEM without a password" in refusal(lambda: read_private_key(path))


def test_a_public_key_does_not_sign(key: Path) -> None:
    public_half(key).chmod(0o600)
    assert "holds no ed25519 private key" in refusal(lambda: read_private_key(public_half(key)))


def odd_places(folder: Path) -> list[tuple[Path, str]]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "folder")
    return [
        (folder / "none", "No such file or directory"),
        (folder / "pipe", "it is a pipe, expected a plain file"),
        (folder / "folder", "it is a folder, expected a plain file"),
        (folder / "link", "it is a symbolic link, expected a plain file"),
        (Path("/dev/null"), "it is a device, expected a plain file"),
    ]


def test_a_key_that_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    for path, words in odd_places(tmp_path):
        assert words in refusal(lambda path=path: read_private_key(path))  # type: ignore[misc]
        assert words in refusal(lambda path=path: read_public_key(path))  # type: ignore[misc]


# Public keys.


def public_of_another_kind() -> bytes:
    public = generate_private_key(SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no ed25519 public key"),
        (b"ssh-ed25519 AAAA maker", "holds no ed25519 public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no ed25519 public key"),
        (public_of_another_kind(), "holds no ed25519 public key"),
        (b"x" * (LARGEST_KEY_FILE + 1), "it is larger than 65,536 bytes"),
        (with_password(), "holds a private key, which stays with its owner"),
    ],
)
def test_a_public_key_that_is_none_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "k.pub"
    path.write_bytes(data)
    assert words in refusal(lambda: read_public_key(path))


# Trusted keys.


def test_a_key_that_was_taken_in_is_trusted_by_its_name(tmp_path: Path, key: Path) -> None:
    public = read_public_key(public_half(key))
    taken = take_in(public, "maker", tmp_path / "keys")
    assert taken.path == tmp_path / "keys" / "maker.pub"
    assert (mode(tmp_path / "keys"), mode(taken.path)) == (0o755, 0o644)
    assert trusted_keys(tmp_path / "keys") == [taken]
    assert take_in(public, "another-name", tmp_path / "keys") == taken, "it is there already"
    assert trusted_keys(tmp_path / "keys") == [taken]


def test_everybody_may_read_trusted_keys_whatever_the_umask(tmp_path: Path, key: Path) -> None:
    before = os.umask(0o077)
    try:
        taken = take_in(read_public_key(public_half(key)), "maker", tmp_path / "keys")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "keys"), mode(taken.path)) == (0o755, 0o644)


def test_a_name_stands_for_one_key(tmp_path: Path, key: Path) -> None:
    take_in(read_public_key(public_half(key)), "maker", tmp_path / "keys")
    other = make_key(tmp_path / "other")
    assert "has another key that is called 'maker'" in refusal(lambda: take_in(other, "maker", tmp_path / "keys"))
    assert [each.name for each in trusted_keys(tmp_path / "keys")] == ["maker"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../maker", "/etc/maker", "a\n", "a\0", "x" * 65, "-x"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, key: Path, name: str) -> None:
    public = read_public_key(public_half(key))
    assert "is no name for a key" in refusal(lambda: take_in(public, name, tmp_path / "keys"))
    assert not (tmp_path / "keys").exists()


def test_a_key_put_there_by_hand_counts_and_other_files_do_not(tmp_path: Path, key: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "by-hand.pub").write_bytes(public_half(key).read_bytes())
    (folder / "README").write_text("whose keys these are")
    assert [(each.name, each.key) for each in trusted_keys(folder)] == [("by-hand", read_public_key(public_half(key)))]


def test_no_folder_is_no_key(tmp_path: Path) -> None:
    assert trusted_keys(tmp_path / "keys") == []


@pytest.mark.parametrize("loose", [0o775, 0o757, 0o777, 0o1777])
def test_a_folder_of_trusted_keys_that_others_can_write_is_refused(tmp_path: Path, loose: int) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(loose)
    sentence = refusal(lambda: trusted_keys(tmp_path / "keys"))
    assert f"{tmp_path / 'keys'} can be written by others (mode {loose:04o})" in sentence
    assert "chmod go-w" in sentence
    public = make_key(tmp_path / "k")
    assert "can be written by others" in refusal(lambda: take_in(public, "maker", tmp_path / "keys"))


def test_a_folder_above_that_others_can_write_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    above = tmp_path / "above"
    (above / "keys").mkdir(parents=True)
    above.chmod(0o777)
    assert f"{above} can be written by others" in refusal(lambda: trusted_keys(above / "keys"))
    (tmp_path / "link").symlink_to(above / "keys")
    assert f"{above} can be written by others" in refusal(lambda: trusted_keys(tmp_path / "link"))
    above.chmod(0o1777)
    assert trusted_keys(above / "keys") == []


@pytest.mark.parametrize("loose", [0o664, 0o646, 0o666])
def test_a_trusted_key_that_others_can_write_is_refused(tmp_path: Path, key: Path, loose: int) -> None:
    taken = take_in(read_public_key(public_half(key)), "maker", tmp_path / "keys")
    taken.path.chmod(loose)
    sentence = refusal(lambda: trusted_keys(tmp_path / "keys"))
    assert f"{taken.path} can be written by others (mode {loose:04o})" in sentence


@pytest.mark.parametrize("what", ["keys", "keys/maker.pub", "."])
def test_trusted_keys_that_belong_to_another_user_are_refused(
    tmp_path: Path, key: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(read_public_key(public_half(key)), "maker", tmp_path / "keys")
    if os.geteuid() == 0:
        os.chown(tmp_path / what, 4242, -1)
        owner = 4242
    else:  # only root can give a file away, so be somebody else
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}" in refusal(lambda: trusted_keys(tmp_path / "keys"))


def test_what_is_no_key_among_the_trusted_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "maker.pub").write_text("none")
    assert f"{folder / 'maker.pub'} holds no ed25519 public key" in refusal(lambda: trusted_keys(folder))
    (folder / "maker.pub").unlink()
    (folder / "maker.pub").symlink_to(folder / "elsewhere")
    assert "it is a symbolic link, expected a plain file" in refusal(lambda: trusted_keys(folder))


def test_a_folder_of_trusted_keys_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be read (Not a directory)" in refusal(lambda: trusted_keys(tmp_path / "file"))
