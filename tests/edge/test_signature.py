"""Signatures: any change is noticed, trust comes from the machine alone, and a line runs nothing that it may not."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import Bundle, open_bundle, sign_bundle
from edge.bundle.keys import PrivateKey, PublicKey, make_key, read_private_key
from edge.bundle.signature import DOMAIN, SIGNATURE, read_signature
from edge.bundle.store import MANIFEST, REQUIRED
from edge.bundle.trusted import Signer, require_trusted, signer_of, take_in
from edge.errors import BundleError
from edge.key_files import public_half
from tests.command import complaint, heatline
from tests.edge.lines import running, small_frames, write_line, write_pictures
from tests.small_bundle import small_bundle


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("key") / "maker.key"
    make_key(path)
    return path


@pytest.fixture(scope="module")
def private(key: Path) -> PrivateKey:
    return read_private_key(key)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, private: PrivateKey) -> Bundle:
    """A signed bundle. Tests that change it make a copy."""
    return sign_bundle(small_bundle(tmp_path_factory.mktemp("signed") / "b"), private)


@pytest.fixture
def signed(original: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(original.path, tmp_path / "b")
    return open_bundle(tmp_path / "b")


@pytest.fixture
def trusted(tmp_path: Path, private: PrivateKey) -> Path:
    """A folder that trusts the signer."""
    take_in(private.public, "maker", tmp_path / "keys")
    return tmp_path / "keys"


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as caught:
        action()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def one_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


# What is right.


def test_a_signed_bundle_says_by_which_key(original: Bundle, private: PrivateKey) -> None:
    opened = open_bundle(original.path)
    assert opened == original
    assert opened.signed_by == private.public
    assert SIGNATURE not in opened.manifest.files


def test_the_signature_is_of_the_digest_that_events_carry(original: Bundle, private: PrivateKey) -> None:
    made = json.loads((original.path / SIGNATURE).read_text())
    assert set(made) == {"algorithm", "key", "signature"}
    assert private.public.fits(bytes.fromhex(made["signature"]), DOMAIN + bytes.fromhex(original.digest))
    assert not private.public.fits(bytes.fromhex(made["signature"]), bytes.fromhex(original.digest))


def test_a_bundle_that_nobody_signed_says_so(bundle: Bundle, tmp_path: Path) -> None:
    assert open_bundle(bundle.path).signed_by is None
    assert signer_of(bundle, tmp_path) is None


def test_a_new_signature_takes_the_place_of_the_old_one(signed: Bundle, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    other = read_private_key(tmp_path / "other")
    sign_bundle(signed, other)
    assert open_bundle(signed.path).signed_by == other.public
    assert sorted(path.name for path in signed.path.iterdir()) == sorted([*REQUIRED, MANIFEST, SIGNATURE])


def test_everybody_may_read_a_signature(signed: Bundle, private: PrivateKey) -> None:
    before = os.umask(0o077)
    try:
        sign_bundle(signed, private)
    finally:
        os.umask(before)
    assert (signed.path / SIGNATURE).stat().st_mode & 0o777 == 0o644


def test_a_signature_that_cannot_be_written_leaves_the_old_one(signed: Bundle, private: PrivateKey) -> None:
    (signed.path / SIGNATURE).unlink()
    (signed.path / SIGNATURE).mkdir()
    assert "cannot be written" in refusal(lambda: sign_bundle(signed, private))
    assert sorted(path.name for path in signed.path.iterdir()) == sorted([*REQUIRED, MANIFEST, SIGNATURE])


# What is changed.


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_changed_byte_of_manifest_or_signature_is_always_refused(
    original: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of an unsigned manifest it may be another bundle; of a signed one there is no other."""
    name = data.draw(st.sampled_from([MANIFEST, SIGNATURE]))
    content = bytearray((original.path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder: Path = tmp_path_factory.mktemp("changed") / "b"
    shutil.copytree(original.path, folder)
    (folder / name).write_bytes(content)
    assert SIGNATURE in refusal(lambda: open_bundle(folder))


@settings(deadline=None, max_examples=100)
@given(place=st.integers(0, 31), flip=st.integers(1, 255))
def test_a_changed_byte_of_the_key_is_another_key(original: Bundle, private: PrivateKey, place: int, flip: int) -> None:
    raw = bytearray(private.public.raw)
    raw[place] ^= flip
    made = bytes.fromhex(json.loads((original.path / SIGNATURE).read_text())["signature"])
    other = PublicKey(bytes(raw))
    assert not other.fits(made, DOMAIN + bytes.fromhex(original.digest))
    assert other.fingerprint != private.public.fingerprint


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_in_place_of_a_signature_are_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    (folder / SIGNATURE).write_bytes(data)
    assert "is no signature of a bundle" in refusal(lambda: read_signature(folder, "0" * 64))


def test_a_manifest_edited_to_match_an_edited_graph_is_refused_by_its_signature(signed: Bundle) -> None:
    graph = signed.path / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    assert "it was changed or damaged" in refusal(lambda: open_bundle(signed.path))
    content = json.loads((signed.path / MANIFEST).read_text())
    content["files"]["model.onnx"] = hashlib.sha256(graph.read_bytes()).hexdigest()
    (signed.path / MANIFEST).write_text(json.dumps(content))
    assert "does not fit the manifest.json beside it" in refusal(lambda: open_bundle(signed.path))


def test_a_signature_of_another_bundle_is_refused(signed: Bundle, tmp_path: Path, private: PrivateKey) -> None:
    content = json.loads((signed.path / MANIFEST).read_text())
    (signed.path / MANIFEST).write_text(json.dumps(content | {"name": "other"}))
    sentence = refusal(lambda: open_bundle(signed.path))
    assert private.public.fingerprint in sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(algorithm="none"), "Invalid enum value 'none'"),
        (lambda s: s.update(algorithm="rsa"), "Invalid enum value 'rsa'"),
        (lambda s: s.update(trusted=True), "unknown field `trusted`"),
        (lambda s: s.pop("signature"), "missing required field `signature`"),
        (lambda s: s.update(signature=""), "matching regex"),
        (lambda s: s.update(signature=s["signature"].upper()), "matching regex"),
        (lambda s: s.update(signature="0" * 128), "does not fit"),
        (lambda s: s.update(key="0" * 64), "does not fit"),
        (lambda s: s.update(key=s["key"] + "\n"), "matching regex"),
    ],
)
def test_a_signature_that_says_what_cannot_be_is_refused(
    signed: Bundle, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    made = json.loads((signed.path / SIGNATURE).read_text())
    change(made)
    (signed.path / SIGNATURE).write_text(json.dumps(made, indent=2) + "\n")
    assert words in refusal(lambda: open_bundle(signed.path))


# Whom to trust.


def test_a_trusted_signer_is_told_by_its_name(original: Bundle, private: PrivateKey, trusted: Path) -> None:
    known = Signer(private.public.fingerprint, "maker")
    assert signer_of(original, trusted) == require_trusted(original, trusted) == known


def test_a_key_that_came_with_the_bundle_vouches_for_nothing(original: Bundle, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    take_in(read_private_key(tmp_path / "other").public, "other", tmp_path / "keys")
    signer = signer_of(original, tmp_path / "keys")
    assert signer is not None
    assert signer.trusted_as is None
    sentence = refusal(lambda: require_trusted(original, tmp_path / "keys"))
    assert signer.key in sentence
    assert "heatline bundle trust" in sentence


def test_an_unsigned_bundle_is_not_trusted(bundle: Bundle, trusted: Path) -> None:
    sentence = refusal(lambda: require_trusted(bundle, trusted))
    assert "is not signed" in sentence
    assert "allow_unsigned = true" in sentence


# The line.


def line_of(folder: Path, bundle: Path, address: str, trust: str) -> Path:
    write_pictures(folder / "frames", small_frames(3))
    return write_line(folder, bundle, address, {"top": 'path = "frames"'}, trust=trust)


@pytest.mark.long
def test_a_line_runs_what_a_trusted_key_signed_and_says_who_did(
    tmp_path: Path, signed: Bundle, private: PrivateKey, trusted: Path, address: str
) -> None:
    line = line_of(tmp_path, signed.path, address, 'trusted_keys = "keys"')
    report = one_object(heatline("check", line, "--json").stdout)
    assert report["signed_by"] == {"key": private.public.fingerprint, "trusted_as": "maker"}
    assert f"maker, key {private.public.fingerprint}" in heatline("check", line, env={"COLUMNS": "200"}).stdout
    with running(line, address) as run:
        heard = run.until_stopped()
        assert len(heard.verdicts) == 3
        _, log = run.process.communicate()
    assert run.process.returncode == 0
    assert f"signed by maker, key {private.public.fingerprint}" in log


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_line_refuses_what_no_trusted_key_signed(
    tmp_path: Path, bundle: Bundle, signed: Bundle, address: str, command: str
) -> None:
    unsigned = heatline(command, line_of(tmp_path, bundle.path, address, 'trusted_keys = "keys"'))
    assert (unsigned.returncode, unsigned.stdout) == (4, "")
    assert "is not signed" in complaint(unsigned)
    stranger = heatline(command, line_of(tmp_path, signed.path, address, 'trusted_keys = "keys"'))
    assert (stranger.returncode, stranger.stdout) == (4, "")
    assert f"which is not in {tmp_path / 'keys'}" in complaint(stranger)


def test_a_line_trusts_nobody_by_default(tmp_path: Path, bundle: Bundle, address: str) -> None:
    result = heatline("check", line_of(tmp_path, bundle.path, address, ""))
    assert result.returncode == 4
    assert "/etc/heatline/trusted" in complaint(result)


@pytest.mark.long
def test_a_line_that_allows_unsigned_bundles_takes_them_and_still_no_wrong_signature(
    tmp_path: Path, bundle: Bundle, signed: Bundle, address: str
) -> None:
    allowing = 'allow_unsigned = true\ntrusted_keys = "keys"'
    report = one_object(heatline("check", line_of(tmp_path, bundle.path, address, allowing), "--json").stdout)
    assert report["signed_by"] is None
    report = one_object(heatline("check", line_of(tmp_path, signed.path, address, allowing), "--json").stdout)
    assert report["signed_by"]["trusted_as"] is None
    manifest = (signed.path / MANIFEST).read_text()
    (signed.path / MANIFEST).write_text(manifest.replace('"darkness"', '"brightness"'))
    result = heatline("check", line_of(tmp_path, signed.path, address, allowing))
    assert result.returncode == 4
    assert "does not fit the manifest.json beside it" in complaint(result)


def test_a_line_refuses_trusted_keys_that_others_can_write(
    tmp_path: Path, signed: Bundle, trusted: Path, address: str
) -> None:
    trusted.chmod(0o777)
    result = heatline("check", line_of(tmp_path, signed.path, address, 'trusted_keys = "keys"'))
    assert result.returncode == 4
    assert "can be written by others" in complaint(result)


# The commands.


@pytest.mark.long
def test_from_a_new_key_to_a_trusted_bundle(tmp_path: Path) -> None:
    small_bundle(tmp_path / "b")
    made = one_object(heatline("bundle", "keygen", "maker.key", "--json", cwd=tmp_path).stdout)
    assert made["private"] == "maker.key"
    signed = one_object(heatline("bundle", "sign", "b", "--key", "maker.key", "--json", cwd=tmp_path).stdout)
    assert (signed["signed_by"], signed["replaced"]) == (made["fingerprint"], None)
    taken = one_object(
        heatline("bundle", "trust", "maker.key.pub", "--name", "us", "--keys", "keys", "--json", cwd=tmp_path).stdout
    )
    assert (taken["name"], taken["fingerprint"]) == ("us", made["fingerprint"])
    listed = one_object(heatline("bundle", "trust", "--keys", "keys", "--json", cwd=tmp_path).stdout)
    assert listed == {"keys": [taken]}
    verified = heatline("bundle", "verify", "b", "--keys", "keys", "--json", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert one_object(verified.stdout)["signed_by"] == {"key": made["fingerprint"], "trusted_as": "us"}
    shown = one_object(heatline("bundle", "show", "b", "--json", cwd=tmp_path).stdout)
    assert shown["signed_by"] == made["fingerprint"]
    again = one_object(heatline("bundle", "sign", "b", "--key", "maker.key", "--json", cwd=tmp_path).stdout)
    assert again["replaced"] == made["fingerprint"]


@pytest.mark.long
def test_the_commands_tell_people_the_same(tmp_path: Path) -> None:
    small_bundle(tmp_path / "b")
    wide = {"COLUMNS": "200"}
    made = heatline("bundle", "keygen", "k", cwd=tmp_path, env=wide).stdout
    fingerprint = made.split()[-1]
    commands = {
        ("sign", "b", "--key", "k"): "it was not signed",
        ("sign", "b", "--key", "k", "--json"): fingerprint,
        ("trust", "k.pub", "--keys", "keys"): "k.pub is trusted",
        ("trust", "--keys", "keys"): "1 trusted in keys",
        ("verify", "b", "--keys", "keys"): f"k, key {fingerprint}",
        ("show", "b"): f"key {fingerprint}",
    }
    for command, words in commands.items():
        result = heatline("bundle", *command, cwd=tmp_path, env=wide)
        assert result.returncode == 0, result.stderr
        assert words in result.stdout
        assert fingerprint in result.stdout


@pytest.mark.long
def test_verify_refuses_by_named_keys_and_only_reports_without(
    tmp_path: Path, bundle: Bundle, signed: Bundle, private: PrivateKey
) -> None:
    reported = heatline("bundle", "verify", signed.path, "--json")
    assert reported.returncode == 0, reported.stderr
    assert one_object(reported.stdout)["signed_by"]["key"] == private.public.fingerprint
    assert one_object(heatline("bundle", "verify", bundle.path, "--json").stdout)["signed_by"] is None
    for path, words in ((signed.path, "which is not in"), (bundle.path, "is not signed")):
        refused = heatline("bundle", "verify", path, "--keys", tmp_path / "none", "--json")
        assert (refused.returncode, refused.stdout) == (4, "")
        assert words in complaint(refused)


def test_a_key_with_loose_permissions_signs_nothing(tmp_path: Path, key: Path) -> None:
    unsigned = small_bundle(tmp_path / "b").path
    shutil.copy(key, tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    result = heatline("bundle", "sign", unsigned, "--key", tmp_path / "k")
    assert (result.returncode, result.stdout) == (4, "")
    assert "may be used by others than its owner (mode 0640" in complaint(result)
    assert not (unsigned / SIGNATURE).exists()


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, key: Path) -> None:
    damaged = small_bundle(tmp_path / "b").path
    (damaged / "model.onnx").write_bytes(b"")
    result = heatline("bundle", "sign", damaged, "--key", key)
    assert result.returncode == 4
    assert "changed or damaged" in complaint(result)
    assert not (damaged / SIGNATURE).exists()


def test_nothing_that_exists_is_overwritten_by_a_key(tmp_path: Path, key: Path) -> None:
    before = key.read_bytes()
    result = heatline("bundle", "keygen", key)
    assert result.returncode == 4
    assert "never overwritten" in complaint(result)
    assert key.read_bytes() == before


def test_a_private_key_is_never_put_among_the_trusted(tmp_path: Path, key: Path) -> None:
    result = heatline("bundle", "trust", key, "--keys", tmp_path / "keys")
    assert result.returncode == 4
    assert "holds a private key" in complaint(result)
    assert not (tmp_path / "keys").exists()


def test_a_bundle_calibrated_anew_is_signed_by_nobody(tmp_path: Path, signed: Bundle) -> None:
    good = write_pictures(tmp_path / "good", {name: small_frames(2)[name] for name in ("001.png", "002.png")})
    result = heatline("calibrate", signed.path, good, "--to", tmp_path / "new", env={"COLUMNS": "200"})
    assert result.returncode == 0, result.stderr
    assert "nobody, as it is another bundle now" in result.stdout
    assert open_bundle(tmp_path / "new").signed_by is None


WHAT_AN_UNSIGNED_BUNDLE_IMPORTS = """
import sys
from pathlib import Path
from edge.bundle import open_bundle
import edge.cli.main
open_bundle(Path(sys.argv[1]))
print("cryptography" in sys.modules)
open_bundle(Path(sys.argv[2]))
print("cryptography" in sys.modules)
"""


def test_the_library_is_loaded_only_where_there_is_a_signature(bundle: Bundle, signed: Bundle) -> None:
    command: list[str | Path] = [sys.executable, "-c", WHAT_AN_UNSIGNED_BUNDLE_IMPORTS, bundle.path, signed.path]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["False", "True"]


def test_the_public_half_lies_beside_its_key(key: Path) -> None:
    assert public_half(key).is_file()
