"""`heatline reload --bundle` changes one key of a line's file, and restores the file if the line does not use it."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cli.line import with_bundle
from heatline.edge.errors import CommandRefusedError, ConfigError, DeliveryError
from tests.command import complaint, heatline
from tests.edge.lines import write_line, write_pictures
from tests.edge.status_only_line import StatusOnlyLine, a_change
from tests.edge.test_reload_command import an_own_status, on_sighup
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
        with_bundle('"bundle" = "a"\n', Path("b"), None, Path("line.toml"))
    with pytest.raises(ConfigError, match="no line that sets bundle of product new; write it there by hand"):
        with_bundle('bundle = "a"\n[[products]]\nname = "new"\n', Path("b"), "new", Path("line.toml"))


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
    assert line.read_bytes() == after
    assert line.stat().st_mode & 0o777 == 0o640


def test_a_line_that_does_not_run_keeps_its_file(line: Path) -> None:
    before = line.read_bytes()
    result = reloaded(line, "--timeout", "0.1")
    assert result.returncode == DeliveryError.exit_code
    assert complaint(result).endswith("is the line running?")
    assert line.read_bytes() == before


def test_what_cannot_be_used_is_never_written(line: Path, tmp_path: Path) -> None:
    before = line.read_bytes()
    assert "is not a bundle" in complaint(heatline("reload", line, "--bundle", tmp_path))
    assert "there is no product 'lids'" in complaint(reloaded(line, "--product", "lids"))
    assert line.read_bytes() == before


def test_options_that_do_not_fit_are_refused(line: Path) -> None:
    assert "--product needs --bundle" in heatline("reload", line, "--product", "lids").stderr
    assert "name the line or its file" in heatline("reload", "tcp://127.0.0.1:1", "--bundle", "b").stderr
