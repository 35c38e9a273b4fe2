"""SOURCE: folders, lists and tables become the same plan, each picture once."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.archive.source import Listed, list_source
from heatline.edge.errors import InputError

FILES = [
    "a.png",
    "b.txt",
    "left/1.png",
    "left/2.JPG",
    "left/deep/3.bmp",
    "right/4.png",
    ".hidden/5.png",
    "left/[x].png",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_gives_its_pictures_sorted_with_their_folders_as_groups(tree: Path) -> None:
    assert list_source(tree) == [
        Listed(".hidden/5.png", ".hidden"),
        Listed("a.png", "."),
        Listed("left/1.png", "left"),
        Listed("left/2.JPG", "left"),
        Listed("left/[x].png", "left"),
        Listed("left/deep/3.bmp", "left/deep"),
        Listed("right/4.png", "right"),
    ]


def test_links_in_a_folder_are_followed_but_not_to_one_above(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "1.png").write_bytes(b"x")
    (tmp_path / "last").symlink_to("day")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "day" / "disk").symlink_to("/nowhere")
    (tmp_path / "day" / "above").symlink_to("..")
    assert [each.picture for each in list_source(tmp_path)] == ["day/1.png", "last/1.png", "lost.png"]


@given(st.text(st.characters(exclude_characters="/\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_any_name_survives_in_a_list(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "names.txt").write_text(f"\ufefffolder/{name}.png\r\n/x/{name}.png\n", encoding="utf-8", newline="")
    assert [each.picture for each in list_source(folder / "names.txt")] == [
        f"/x/{name}.png",
        f"folder/{name}.png",
    ]


def test_a_list_gives_each_picture_once(tree: Path) -> None:
    (tree / "list.txt").write_text(f"left/1.png\n\nleft/../left/1.png\n{tree}/a.png\nmissing.png\nleft/1.png\n")
    assert list_source(tree / "list.txt") == [
        Listed(f"{tree}/a.png", str(tree)),
        Listed("left/1.png", "left"),
        Listed("missing.png", "."),
    ]
    (tree / "list.txt").unlink()


def test_a_table_gives_groups_and_labels(tmp_path: Path) -> None:
    table = pa.table({"picture": ["b.png", "a.png"], "group": ["one", None], "label": ["good", None], "more": [1, 2]})
    pq.write_table(table, tmp_path / "table.parquet")
    expected = [Listed("a.png", ".", None), Listed("b.png", "one", "good")]
    assert list_source(tmp_path / "table.parquet") == expected


def test_what_cannot_be_a_source_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"file": ["a.png"]}), tmp_path / "column.parquet")
    pq.write_table(pa.table({"picture": ["a.png"], "label": ["bad"]}), tmp_path / "label.parquet")
    pq.write_table(pa.table({"picture": ["a.png", ""]}), tmp_path / "blank.parquet")
    for name, other in (("both", "a.png"), ("dot", "./a.png")):
        pq.write_table(
            pa.table({"picture": ["a.png", other], "label": ["good", "defective"]}), tmp_path / f"{name}.parquet"
        )
    for name, words in (
        ("none", "does not exist"),
        ("empty", "has no picture"),
        ("notes.md", "is a file of another kind"),
        ("latin.txt", "is not UTF-8, which Parquet needs; rename it, or convert the list"),
        ("broken.parquet", "cannot be read ("),
        ("column.parquet", "has the columns file; expected"),
        ("label.parquet", "has the picture 'a.png' with the label 'bad'"),
        ("blank.parquet", "has the picture '' with the label None"),
        ("both.parquet", "has a.png twice, as good and as defective"),
        ("dot.parquet", "has ./a.png twice, as good and as defective"),
    ):
        with pytest.raises(InputError) as caught:
            list_source(tmp_path / name)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "latin").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "latin") + b"/caf\xe9.png")).write_bytes(b"x")
    for name in ("latin", "caf\udce9"):
        with pytest.raises(InputError, match="not UTF-8, which Parquet needs; rename it"):
            list_source(tmp_path / name)
