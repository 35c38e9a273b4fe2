"""`heatline reload --bundle` changes one key of a line's file, and restores the file if the line does not use it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.config.bundle_key import changed_bundle, with_bundle
from heatline.edge.errors import BundleError, CommandRefusedError, ConfigError, DeliveryError, Interrupted
from tests.command import complaint, heatline
from tests.edge.lines import write_line, write_pictures
from tests.small_bundle import white_frame

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


@pytest.mark.parametrize(
    ("product", "old"), [(None, "'a.bundle'"), ("lids", '"lids.bundle"'), ("boards", '"boards.bundle"')]
)
@pytest.mark.parametrize("bundle", ["/b/new.bundle", '/b/with "quotes" and\ttab', "/b/Prüfling 🏭"])
def test_only_the_key_changes(product: str | None, old: str, bundle: str) -> None:
    changed = with_bundle(TEXT, Path(bundle), product, Path("line.toml"))
    assert changed == TEXT.replace(old, json.dumps(bundle, ensure_ascii=False))
    tables: dict[str, Any] = tomllib.loads(changed)
    owner = tables if product is None else next(each for each in tables["products"] if each["name"] == product)
    assert owner["bundle"] == bundle
    back = with_bundle(changed, Path("/b/old.bundle"), product, Path("line.toml"))
    assert back == TEXT.replace(old, '"/b/old.bundle"'), "also a path with quotes can be changed again"


def test_a_file_without_the_key_is_not_changed() -> None:
    with pytest.raises(ConfigError, match="no line that sets bundle; write it there by hand"):
        with_bundle('bundle = "a"\n', Path("/b/\udcff"), None, Path("line.toml"))  # no UTF-8
    with pytest.raises(ConfigError, match="no line that sets bundle of product new; write it there by hand"):
        with_bundle('bundle = "a"\n[[products]]\nname = "new"\n', Path("b"), "new", Path("line.toml"))
    with pytest.raises(ConfigError, match="has no product 'lid'"):
        with_bundle(TEXT, Path("b"), "lid", Path("line.toml"))
    with pytest.raises(ConfigError, match="as the line has no products; leave out --product"):
        with_bundle('bundle = "a"\n', Path("b"), "lid", Path("line.toml"))


@pytest.fixture
def line(bundle: Bundle, tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", {"1.png": white_frame((230, 300))})
    file = write_line(tmp_path, bundle.path, "tcp://127.0.0.1:5556", {"top": 'path = "pictures"'})
    file.chmod(0o640)
    return file


@pytest.mark.parametrize(
    ("error", "asked", "restored"),
    [
        (CommandRefusedError(None, "no"), True, True),
        (DeliveryError("no answer"), False, True),
        (DeliveryError("no answer"), True, False),
        (KeyboardInterrupt(), False, True),
        (KeyboardInterrupt(), True, False),
        (None, True, False),
    ],
)
def test_the_file_is_restored_unless_the_line_may_use_it(
    line: Path, bundle: Bundle, tmp_path: Path, error: BaseException | None, asked: bool, restored: bool
) -> None:
    before = line.read_bytes()
    link = tmp_path / "same.bundle"
    link.symlink_to(bundle.path)

    def change() -> None:
        with changed_bundle(line, link, None) as change:
            if asked:
                change.keep()
            if error is not None:
                raise error

    if error is None:
        change()
    else:
        with pytest.raises(Interrupted if isinstance(error, KeyboardInterrupt) else type(error)) as raised:
            change()
        state = f"{line} is as before" if restored else f"{line} names {link} now"
        assert str(raised.value).endswith(state)
    assert (line.read_bytes() == before) == restored
    assert line.stat().st_mode & 0o777 == 0o640


def test_what_somebody_else_wrote_meanwhile_stays(line: Path, bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "same.bundle"
    link.symlink_to(bundle.path)
    edited = b"# Ada's\n" + line.read_bytes()

    def change() -> None:
        with changed_bundle(line, link, None):
            line.write_bytes(edited)
            raise CommandRefusedError(None, "no")

    with pytest.raises(CommandRefusedError, match="was changed meanwhile, and is left so"):
        change()
    assert line.read_bytes() == edited


def test_a_link_to_the_file_stays_a_link(line: Path, bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(line)
    other = tmp_path / "same.bundle"
    other.symlink_to(bundle.path)
    with changed_bundle(link, other, None):
        pass
    assert link.is_symlink()
    assert tomllib.loads(line.read_text())["bundle"] == str(other)


def test_what_is_no_bundle_is_never_written(line: Path, tmp_path: Path) -> None:
    before = line.read_bytes()
    with pytest.raises(BundleError, match="is not a bundle"), changed_bundle(line, tmp_path, None):
        pass
    assert line.read_bytes() == before


def test_a_line_that_does_not_run_keeps_its_file(line: Path, bundle: Bundle) -> None:
    before = line.read_bytes()
    result = heatline("reload", line, "--bundle", bundle.path, "--timeout", "0.1")
    assert result.returncode == DeliveryError.exit_code
    assert complaint(result).endswith(f"is the line running?; {line} is as before")
    assert line.read_bytes() == before


def test_options_that_do_not_fit_are_refused(line: Path) -> None:
    assert "--product needs --bundle" in heatline("reload", line, "--product", "lids").stderr
    assert "name the line or its file" in heatline("reload", "tcp://127.0.0.1:1", "--bundle", "b").stderr
