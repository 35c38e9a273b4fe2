"""What a folder of labelled pictures is understood to say."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import InputError
from tests.train.blobs import draw_blobs, sort_tiles, write_labels
from train.frames import FrameStore
from train.readers import read_folder
from train.tiles import TileRule, grid_tiles

BOX = """<annotation><size><width>{width}</width><height>{height}</height></size>
<object><name>spur</name><bndbox><xmin>{x0}</xmin><ymin>3</ymin><xmax>{x1}</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def write_picture(file: Path, value: int = 90, frame_hw: tuple[int, int] = (30, 40)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full(frame_hw, value, np.uint8))


def write_box(folder: Path, width: int = 40, height: int = 30, x0: str = "5", x1: str = "10") -> Path:
    write_picture(folder / "images" / "p.png")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "p.xml").write_text(BOX.format(width=width, height=height, x0=x0, x1=x1))
    return folder


def test_labels_csv_gives_label_and_group_and_masks_give_the_place(tmp_path: Path) -> None:
    read = read_folder(draw_blobs(tmp_path / "blobs"))
    assert (read.name, read.truth, len(read.images), read.groups()) == ("blobs", "masks", 12, ["a", "b", "c", "d"])
    first, last = read.images[0], read.images[2]
    assert (first.group, first.defective, [file.name for file in first.truth_files]) == ("a", True, ["a_0.png"])
    stored = cv2.imread(str(tmp_path / "blobs/masks/a_0.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert np.array_equal(first.mask((150, 200)), stored > 0)
    assert not last.defective
    assert not np.any(last.mask((150, 200)))  # labelled good and without a mask: nothing of it is defective


def test_the_first_truth_there_is_is_used_and_any_can_be_asked_for(tmp_path: Path) -> None:
    write_box(tmp_path)
    assert read_folder(tmp_path).truth == "boxes"
    write_picture(tmp_path / "derived_masks" / "p.png", 255)
    assert read_folder(tmp_path).truth == "derived_masks"
    write_picture(tmp_path / "masks" / "p.png", 255)
    assert read_folder(tmp_path).truth == "masks"
    assert read_folder(tmp_path, truth="boxes").truth == "boxes"


def test_a_box_covers_both_its_corners_which_voc_counts_from_one(tmp_path: Path) -> None:
    mask = read_folder(write_box(tmp_path)).images[0].mask((30, 40))
    assert mask is not None
    assert np.argwhere(mask).min(axis=0).tolist() == [2, 4]
    assert np.argwhere(mask).max(axis=0).tolist() == [3, 9]
    assert mask.sum() == 2 * 6


def test_without_labels_a_picture_is_defective_if_its_annotation_marks_anything(tmp_path: Path) -> None:
    for name, value in (("marked", 255), ("empty", 0)):
        write_picture(tmp_path / "images" / f"{name}.png")
        write_picture(tmp_path / "masks" / f"{name}.png", value)
    write_picture(tmp_path / "images" / "unmarked.png")
    found = {image.path.stem: image.defective for image in read_folder(tmp_path).images}
    assert found == {"marked": True, "empty": False, "unmarked": False}


def test_groups_come_from_a_column_or_from_file_names(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    assert read_folder(folder, group_pattern=r"_(\d)").groups() == ["0", "1", "2"]
    rows = [(f"{group}_{n}.png", "defective" if n < 2 else "good", f"0{n}") for group in "abcd" for n in range(3)]
    write_labels(folder, rows, group="board")
    assert read_folder(folder, group_column="board").groups() == ["00", "01", "02"]  # as written: no numbers


def test_in_good_and_defective_folders_each_file_is_a_group_unless_a_pattern_says_more(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=3)
    read = read_folder(folder)
    assert (read.truth, read.groups()) == ("labels", ["d00", "d01", "d02", "g00", "g01", "g02"])
    assert [image.defective for image in read.images] == [False] * 3 + [True] * 3
    assert read.images[0].mask((64, 64)) is None
    assert read_folder(folder, group_pattern=r"(\d\d)").groups() == ["00", "01", "02"]


def bad_label(folder: Path) -> None:
    write_labels(folder, [("a_0.png", "bad", "a")])


def label_without_picture(folder: Path) -> None:
    (folder / "images" / "a_0.png").unlink()


def picture_without_label(folder: Path) -> None:
    write_picture(folder / "images" / "new.png")


def defective_without_mask(folder: Path) -> None:
    (folder / "masks" / "a_0.png").unlink()


def no_pictures(folder: Path) -> None:
    for file in (folder / "images").iterdir():
        file.unlink()


def nothing_to_learn_from(folder: Path) -> None:
    (folder / "masks").rename(folder / "elsewhere")
    (folder / "labels.csv").unlink()


def empty_masks(folder: Path) -> None:
    for file in (folder / "masks").iterdir():
        file.unlink()


def labelled_twice(folder: Path) -> None:
    with (folder / "labels.csv").open("a") as file:
        file.write("a_0.png,good,a\n")


def one_stem_twice(folder: Path) -> None:
    write_picture(folder / "images" / "a_0.jpg")


def no_text(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"image,label\n\xff\xfe,good\n")


def neither_layout(folder: Path) -> None:
    (folder / "images").rename(folder / "pictures")


def nothing_defective(folder: Path) -> None:
    write_labels(folder, [(file.name, "good", "a") for file in (folder / "images").iterdir()])


def no_columns(folder: Path) -> None:
    (folder / "labels.csv").write_text("name,kind\na_0.png,good\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (bad_label, "labels a_0.png as 'bad'; expected good or defective"),
        (label_without_picture, "a_0.png has a label and no picture"),
        (picture_without_label, "new.png has no label"),
        (defective_without_mask, "labelled defective and has no annotation of its name"),
        (no_pictures, "holds no picture"),
        (nothing_to_learn_from, "none of masks/, derived_masks/, labelme/, annotations/, boxes/ and labels.csv"),
        (empty_masks, "masks holds no *.png; put the annotations there, or ask for truth=labels"),
        (labelled_twice, "names a_0.png twice"),
        (one_stem_twice, "a_0.png and a_0.jpg differ only in their ending"),
        (no_text, "labels.csv cannot be read"),
        (neither_layout, "neither images/ nor good/ and defective/"),
        (nothing_defective, "holds no defective picture"),
        (no_columns, "the columns image and label"),
    ],
)
def test_a_folder_that_cannot_be_understood_is_refused_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    spoil(folder)
    with pytest.raises(InputError) as raised:
        read_folder(folder)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_folders_classes_truths_and_groups_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_folder(tmp_path / "nowhere")
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    with pytest.raises(InputError, match="has no truth 'boxes'; it has masks"):
        read_folder(folder, truth="boxes")
    with pytest.raises(InputError, match=r"column 'board' of labels.csv \(which has group\); name the column"):
        read_folder(folder, group_column="board").groups()
    with pytest.raises(InputError, match="no parenthesis"):
        read_folder(folder, group_pattern="a_")
    with pytest.raises(InputError, match="no regular expression"):
        read_folder(folder, group_pattern="(")
    with pytest.raises(InputError, match=r"finds no group in the file name a_0\.png"):
        read_folder(folder, group_pattern="(z)")
    (tmp_path / "tiles" / "good").mkdir(parents=True)
    with pytest.raises(InputError, match="only one class: defective/ is missing"):
        read_folder(tmp_path / "tiles")


def test_masks_and_boxes_that_do_not_fit_their_picture_are_refused(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    image = read_folder(folder).images[0]
    with pytest.raises(InputError, match=r"is 150x200 px \(height x width\), its picture is 100x200"):
        image.mask((100, 200))
    names = [file.name for file in (folder / "images").iterdir()]
    write_labels(folder, [(name, "good" if name == "a_0.png" else "defective", "a") for name in names])
    for file in (folder / "images").iterdir():
        write_picture(folder / "masks" / file.name, 255, (150, 200))
    with pytest.raises(InputError, match=r"a_0.png is labelled good, but .* marks 30000 defective px"):
        read_folder(folder).images[0].mask((150, 200))
    for spoilt, says in (
        ({"width": 41}, "was made for a picture of 30x41"),
        ({"x1": "42"}, "does not lie in its picture"),
        ({"x0": "-1"}, "does not lie in its picture"),
        ({"x0": "11"}, "has no area"),
        ({"x0": "left"}, "xmin is 'left'"),
    ):
        boxes = write_box(tmp_path / str(spoilt), **spoilt)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=says):
            read_folder(boxes).images[0].mask((30, 40))
    (boxes / "annotations" / "p.xml").write_text("<annotation>")
    with pytest.raises(InputError, match="is no VOC annotation"):
        read_folder(boxes)


def test_real_pictures_have_the_share_of_defective_tiles_that_is_known(real_data: Path, tmp_path: Path) -> None:
    data = read_folder(real_data / "kolektorsdd", group_column="item")
    store = FrameStore.build(data.images, tmp_path / "cache")
    counts = grid_tiles(store, range(len(store)), TileRule(224, 2, 0.01)).counts()
    shares = [round(100 * count / sum(counts.values()), 1) for count in counts.values()]
    assert shares == [86.8, 3.1, 10.1]  # clean, up to 1 %, over 1 %
