"""Products in a line's file: their settings, refused products, and the stored selection."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import ConfigError
from heatline.edge.service.changeover import ProductMemory

LINE = """
bundle = "a.bundle"
product = "a"

[[cameras]]
kind = "genicam"
name = "top"
size = [640, 480]
exposure_us = 800.0

[[cameras]]
kind = "pattern"
name = "side"
roi = [[[0, 0], [9, 0], [9, 9]]]
size = [640, 480]

[thresholds]
score = 2.5

[[products]]
name = "a"

"""


ALL_OF_IT = [[[0, 0], [640, 0], [640, 480], [0, 480]]]


def load(folder: Path, text: str) -> LineConfig:
    path = folder / "line.toml"
    path.write_text(text)
    return load_config(path)


def test_a_product_overrides_the_lines_settings(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        LINE
        + """
[[products]]
name = "b"
bundle = "b.bundle"

[[products.cameras]]
name = "top"
exposure_us = 400.0
exclude = [[[0, 0], [9, 0], [9, 9]]]

[[products.cameras]]
name = "side"
roi = []

[[products]]
name = "c"
thresholds = { score = 4.0 }
""",
    )
    a, b, c = (config.of_product(name) for name in "abc")
    assert [each.product for each in (a, b, c)] == ["a", "b", "c"]
    assert [each.bundle.name for each in (a, b, c)] == ["a.bundle", "b.bundle", "a.bundle"]
    assert all(each.bundle.is_absolute() for each in (a, b, c))
    assert [each.thresholds.score for each in (a, b, c)] == [2.5, None, 4.0], "another bundle has logits of its own"
    tops = [each.cameras[0] for each in (a, b, c)]
    assert all(isinstance(top, GenicamSettings) for top in tops)
    assert [getattr(top, "exposure_us", None) for top in tops] == [800.0, 400.0, 800.0]
    assert [len(top.exclude) for top in tops] == [0, 1, 0]
    assert [len(each.cameras[1].roi) for each in (a, b, c)] == [1, 0, 1]


def test_a_line_without_products_has_one_configuration_without_a_name(tmp_path: Path) -> None:
    config = load(tmp_path, 'bundle = "a"\n[[cameras]]\nkind = "pattern"\nname = "top"\n')
    assert config.of_product(None) is config
    with pytest.raises(ConfigError, match="there is no product 'a'; expected none, as the line has no products"):
        config.of_product("a")


@pytest.mark.parametrize(
    ("products", "complaint"),
    [
        ('[[products]]\nname = "a"\n', "two products have the same name (a, a)"),
        ('[[products]]\nname = "a\\u0007"\n', "cannot be printed"),
        ('[[products]]\nname = "b"\nexposure_us = 5\n', "products[b] does not know the key exposure_us"),
        ('[[products]]\nname = "b"\ncameras = [{ name = "rear" }]\n', "b names camera rear; the line has top, side"),
        ('[[products]]\nname = "b"\ncameras = [{ name = "top" }, { name = "top" }]\n', "names a camera twice"),
        (
            '[[products]]\nname = "b"\ncameras = [{ name = "side", exposure_us = 5 }]\n',
            "product b sets exposure_us of camera side, but cameras of kind 'pattern' do not have this key",
        ),
        (
            f'[[products]]\nname = "b"\ncameras = [{{ name = "top", exclude = {ALL_OF_IT} }}]\n',
            "product b, camera top: roi and exclude leave nothing",
        ),
        (
            '[[products]]\nname = "b"\ncameras = [{ name = "top", gain_db = 3.0 }]\n',
            "camera top: some products set gain_db, so a would keep the value of the product before",
        ),
    ],
)  # fmt: skip
def test_misleading_products_are_refused_with_a_reason(tmp_path: Path, products: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, LINE + products)
    assert complaint in str(refused.value)


def test_the_first_active_product_must_be_named(tmp_path: Path) -> None:
    for first, complaint in [("", "none is active at first; set product to"), ('product = "z"', "product is 'z'")]:
        with pytest.raises(ConfigError, match=complaint):
            load(tmp_path, LINE.replace('product = "a"', first))


# The selected product survives a restart.

NAMES = st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1), min_size=1, max_size=3)


@settings(max_examples=10)  # each is synced to the disk
@given(NAMES)
def test_the_product_that_was_stored_last_is_selected(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    assert ProductMemory(folder, names, names[0]).selected is None
    for name in names:
        ProductMemory(folder, names, names[0]).store(name)
    assert ProductMemory(folder, names, names[0]).selected == names[-1]
    assert ProductMemory(folder, ["another"], "another").selected is None, "the line has no such product any more"
    assert [file.name for file in folder.iterdir()] == ["product"]


def test_a_failed_write_keeps_the_old_selection_and_is_told_until_it_succeeds(tmp_path: Path) -> None:
    memory = ProductMemory(tmp_path, ["a", "b"], None)
    memory.store("a")
    (tmp_path / ".product.new").mkdir()
    memory.store("b")
    assert memory.fault == f"{tmp_path} cannot be written: a restart may undo the selection"
    assert ProductMemory(tmp_path, ["a", "b"], None).selected == "a"
    (tmp_path / ".product.new").rmdir()
    memory.store("b")
    assert (memory.fault, ProductMemory(tmp_path, ["a", "b"], None).selected) == (None, "b")


def test_a_selection_that_a_restart_undoes_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, product, logged in ((None, "b", True), (None, "a", False), (tmp_path, "b", False)):
        caplog.clear()
        ProductMemory(folder, ["a", "b"], "a").store(product)
        assert ("a restart activates product a, not b" in caplog.text) is logged


def test_an_unreadable_selection_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "product").write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(ProductMemory(tmp_path, ["a"], "a").fault)
    (tmp_path / "product").unlink()
    (tmp_path / "product").mkdir()
    assert "cannot be read" in str(ProductMemory(tmp_path, ["a"], "a").fault)
