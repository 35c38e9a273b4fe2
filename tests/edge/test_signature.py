"""Signatures: every change is noticed, only the machine decides trust, and a line refuses untrusted bundles."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle, open_bundle, sign_bundle
from heatline.edge.bundle.signature import (
    DOMAIN,
    SIGNATURE,
    fingerprint,
    make_key,
    read_private_key,
    signer_of,
    trust_key,
)
from heatline.edge.bundle.store import MANIFEST, REQUIRED
from heatline.edge.errors import CommandRefusedError, ConfigError
from heatline.edge.monitor.activation import with_key
from tests.command import WIDE, complaint, heatline, refused, run_json
from tests.edge.lines import small_frames, write_line, write_pictures
from tests.edge.status_only_line import StatusOnlyLine, a_change
from tests.edge.test_status_command import an_own_status, on_sighup
from tests.small_bundle import copy_of, edit_manifest, refusal, white_frame


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("key") / "maker.key"
    make_key(path)
    return path


@pytest.fixture(scope="module")
def private(key: Path) -> Ed25519PrivateKey:
    return read_private_key(key)


@pytest.fixture(scope="module")
def original(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, private: Ed25519PrivateKey) -> Bundle:
    """A signed bundle. Tests that change it make a copy."""
    return sign_bundle(open_bundle(copy_of(bundle, tmp_path_factory.mktemp("signed") / "b")), private)


@pytest.fixture
def signed(original: Bundle, tmp_path: Path) -> Bundle:
    return open_bundle(copy_of(original, tmp_path / "b"))


@pytest.fixture
def trusted(tmp_path: Path, private: Ed25519PrivateKey) -> Path:
    """A folder that trusts the signer."""
    trust_key(private.public_key(), "maker", tmp_path / "keys")
    return tmp_path / "keys"


def test_a_signed_bundle_states_its_key_and_an_unsigned_one_states_none(
    original: Bundle, private: Ed25519PrivateKey, bundle: Bundle, tmp_path: Path
) -> None:
    opened = open_bundle(original.path)
    assert (opened, opened.signed_by) == (original, private.public_key())
    assert SIGNATURE not in opened.manifest.files
    made = json.loads((original.path / SIGNATURE).read_text())
    assert set(made) == {"algorithm", "key", "signature"}
    private.public_key().verify(bytes.fromhex(made["signature"]), DOMAIN + bytes.fromhex(original.digest))
    assert open_bundle(bundle.path).signed_by is None
    assert signer_of(bundle.path, bundle.signed_by, tmp_path) is None


@given(data=st.data())
def test_a_changed_byte_in_any_file_is_refused(
    original: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A changed unsigned manifest may be a valid other bundle; a changed signed one is refused."""
    name = data.draw(st.sampled_from([*REQUIRED, MANIFEST, SIGNATURE]))
    content = bytearray((original.path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = copy_of(original, tmp_path_factory.mktemp("changed") / "b")
    (folder / name).write_bytes(content)
    assert (name if name in REQUIRED else SIGNATURE) in refusal(folder)


def line_of(folder: Path, bundle: Path, address: str, trust: str) -> Path:
    write_pictures(folder / "frames", small_frames(3))
    return write_line(folder, bundle, address, {"top": 'path = "frames"'}, trust=trust)


def test_a_line_accepts_bundles_of_trusted_keys_or_unsigned_ones_if_allowed(
    tmp_path: Path, bundle: Bundle, signed: Bundle, private: Ed25519PrivateKey, trusted: Path, address: str
) -> None:
    key, allowing = fingerprint(private.public_key()), 'allow_unsigned = true\ntrusted_keys = "none"'
    for path, trust, people in (
        (bundle.path, allowing, "nobody"),
        (signed.path, allowing, f"nobody who is trusted here, key {key}"),
        (signed.path, 'trusted_keys = "keys"', f"maker, key {key}"),
    ):
        line = line_of(tmp_path, path, address, trust)
        assert people in heatline("check", line, env=WIDE).stdout
    assert json.loads(heatline("check", line, "--json").stdout)["signed_by"] == {"key": key, "trusted_as": "maker"}


def test_a_line_refuses_a_bundle_that_no_trusted_key_signed(
    tmp_path: Path, bundle: Bundle, signed: Bundle, trusted: Path, address: str
) -> None:
    edited = edit_manifest(copy_of(signed, tmp_path / "edited"), lambda m: m.update(name="brightness"))
    for command, path, trust, message in (
        ("check", bundle.path, 'trusted_keys = "keys"', "is not signed"),
        ("run", bundle.path, 'trusted_keys = "keys"', "is not signed"),
        ("run", signed.path, 'trusted_keys = "none"', f"which is not in {tmp_path / 'none'}"),
        ("run", signed.path, "", "/etc/heatline/trusted"),  # by default no key is trusted
        ("run", edited, "allow_unsigned = true", "does not fit the manifest.json beside it"),
    ):
        assert message in refused(4, command, line_of(tmp_path, path, address, trust))


def test_a_new_key_signs_a_bundle_that_a_machine_then_trusts(bundle: Bundle, tmp_path: Path) -> None:
    """Each command is run twice, for programs and for people."""
    copy_of(bundle, tmp_path / "b")

    def bundle_command(words: str, people: str = "") -> Any:
        report = run_json("bundle", *words.split(), cwd=tmp_path)
        shown = heatline("bundle", *words.split(), cwd=tmp_path, env=WIDE).stdout
        assert people in shown
        assert fingerprint in shown
        return report

    made = run_json("bundle", "keygen", "k", cwd=tmp_path)
    fingerprint = made["fingerprint"]
    assert made["private"] == "k"
    signed = bundle_command("sign b --key k")
    assert (signed["signed_by"], signed["replaced"]) == (fingerprint, None)
    assert bundle_command("sign b --key k", "replaced")["replaced"] == fingerprint
    taken = bundle_command("trust k.pub --name us --keys keys", "k.pub is trusted")
    assert (taken["name"], taken["fingerprint"]) == ("us", fingerprint)
    assert bundle_command("trust --keys keys", "1 trusted in keys") == {"keys": [taken]}
    verified = bundle_command("verify b --keys keys", f"us, key {fingerprint}")
    assert verified["signed_by"] == {"key": fingerprint, "trusted_as": "us"}
    assert bundle_command("show b", f"key {fingerprint}")["signed_by"] == fingerprint


def test_invalid_bundles_and_keys_are_not_signed_or_trusted(tmp_path: Path, bundle: Bundle, key: Path) -> None:
    before = key.read_bytes()
    shutil.copy(key, tmp_path / "loose")
    (tmp_path / "loose").chmod(0o640)
    whole, damaged = copy_of(bundle, tmp_path / "whole"), copy_of(bundle, tmp_path / "damaged")
    (damaged / "model.onnx").write_bytes(b"")
    commands: list[tuple[list[str | Path], str]] = [
        (["sign", whole, "--key", tmp_path / "loose"], "can be used by others than its owner (mode 0640"),
        (["sign", damaged, "--key", key], "changed or damaged"),
        (["keygen", key], "never overwritten"),
        (["trust", key, "--keys", tmp_path / "keys"], "holds a private key"),
    ]
    for command, message in commands:
        assert message in refused(4, "bundle", *command)
    assert not list(tmp_path.rglob(SIGNATURE))
    assert not (tmp_path / "keys").exists()
    assert key.read_bytes() == before


# `heatline reload --bundle` changes one key of a file, and restores the file if the line does not use it.


TEXT = """# The line of hall 3.
bundle = 'a.bundle'  # by Ada
note = \"\"\"
bundle = "in a text"
\"\"\"
[[products]]
name = "lids"
bundle = "lids.bundle"
[[products]]
name = "boards"
  bundle   =  "boards.bundle"
"""


FILE = Path("line.toml")
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(
    lambda name: f"/b/{name}"
)


@example("a", '/b/with "quotes" and\ttab', "/b/Prüfling 🏭")
@given(st.sampled_from(["a", "lids", "boards", "shadow", "former"]), NAMES, NAMES)
def test_only_the_key_changes_also_one_that_is_added_and_taken_out(which: str, one: str, other: str) -> None:
    product, key = (which, "bundle") if which in ("lids", "boards") else (None, "bundle" if which == "a" else which)
    text, old = TEXT, "'a.bundle'" if which == "a" else f'"{which}.bundle"'
    for bundle in (one, other):
        text = with_key(text, key, Path(bundle), product, FILE)
        written = json.dumps(str(Path(bundle)), ensure_ascii=False)
        if key == "bundle":
            assert text == TEXT.replace(old, written)
        else:
            assert tomllib.loads(text) == {**tomllib.loads(TEXT), key: str(Path(bundle))}
    if key != "bundle":
        assert with_key(text, key, None, None, FILE) == with_key(TEXT, key, None, None, FILE) == TEXT


@pytest.mark.parametrize(
    ("text", "key", "new", "product", "told"),
    [
        ('"bundle" = "a"\n', "bundle", FILE, None, "bundle; write"),
        ('bundle = "a"\n[[products]]\nname = "new"\n', "bundle", FILE, "new", "bundle of product new; write"),
        ('"shadow" = "a"\n', "shadow", None, None, "shadow; write it there by hand: take shadow out"),
    ],
)
def test_a_key_that_cannot_be_found_is_named(
    text: str, key: str, new: Path | None, product: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"has no line that sets {told}"):
        with_key(text, key, new, product, FILE)


@pytest.fixture
def line(bundle: Bundle, address: str, tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", {"1.png": white_frame((230, 300))})
    file = write_line(tmp_path, bundle.path, address, {"top": 'path = "pictures"'})
    file.chmod(0o640)
    (tmp_path / "new.bundle").symlink_to(bundle.path)
    return file


def reloaded(line: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return heatline("reload", line, "--bundle", line.parent / "new.bundle", "--timeout", "20", *options)


def named_in(line: Path) -> str:
    return str(tomllib.loads(line.read_text())["bundle"])


def test_the_running_line_is_asked_with_the_new_bundle_in_its_file(line: Path, address: str) -> None:
    link = line.parent / "link.toml"
    link.symlink_to(line)
    asked = list[str]()

    def apply() -> None:
        asked.append(named_in(line))
        running.send(a_change(change="reload"))

    with StatusOnlyLine(address, an_own_status()) as running, on_sighup(apply):
        assert reloaded(link).returncode == 0
    assert asked == [named_in(line)] == [str(line.parent / "new.bundle")]
    assert link.is_symlink()
    assert line.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("edited", [False, True], ids=["restored", "edited meanwhile"])
def test_a_refused_bundle_leaves_the_file_as_before(line: Path, address: str, edited: bool) -> None:
    before = line.read_bytes()
    after = b"# Ada's\n" + before if edited else before

    def refuse() -> None:
        if edited:
            line.write_bytes(after)
        running.send(a_change(change="reload", applied=False, detail="no"))

    with StatusOnlyLine(address, an_own_status()) as running, on_sighup(refuse):
        result = reloaded(line)
    assert result.returncode == CommandRefusedError.exit_code
    assert ("was changed meanwhile, and is left so" if edited else f"{line} is as before") in complaint(result)
    assert (line.read_bytes(), line.stat().st_mode & 0o777) == (after, 0o640)


def test_what_cannot_be_used_is_never_written(line: Path, tmp_path: Path) -> None:
    before = line.read_bytes()
    assert "is not a bundle" in complaint(heatline("reload", line, "--bundle", tmp_path))
    assert "there is no product 'lids'" in complaint(reloaded(line, "--product", "lids"))
    assert line.read_bytes() == before
