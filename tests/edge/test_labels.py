"""A folder whose pictures people label, and the server of its page: nothing confirmed is lost; a training reads it."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heatline.edge.errors import InputError
from heatline.edge.labels.folder import ChangedMeanwhileError, Label, LabelFolder
from heatline.edge.labels.places import drawn, outlines_of
from heatline.edge.labels.training import newest_run, read_scores
from heatline.edge.wire.events import Areas, Stroke
from heatline.train.readers import read_folder
from heatline.train.readers.annotation import Polygon
from heatline.train.readers.folder import list_folder
from tests.command import complaint, heatline, successful
from tests.edge.fault_disks import fill, small_disk
from tests.edge.view_pages import Answer, page_at, serving
from tests.train.blobs import draw_blobs

HW = 40, 60
LABELS: tuple[Label, ...] = "good", "defective", "unlabelled"
DRAWN = Areas(boxes_xywh=[(2, 3, 20, 10)], strokes=[Stroke(((30, 30), (50, 20)), 5)])
COORDINATE = st.integers(0, 59)
STROKES = st.builds(
    Stroke, st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=9).map(tuple), st.integers(1, 25)
)


def fill_with_pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.random.default_rng(number).integers(0, 256, (*HW, 3), np.uint8))
    return folder


def state(folder: Path) -> dict[str, tuple[str, bool]]:
    """Label of each picture, and whether it has places, as a program sees them that starts now."""
    return {name: (each.label, each.places > 0) for name, each in LabelFolder(folder).pictures().items()}


@example(Stroke(((5, 5), (40, 6), (39, 30), (6, 30), (5, 5), (40, 30)), 3), 40, 50)  # with holes
@given(STROKES, st.integers(1, 50), st.integers(1, 50))
def test_the_polygons_of_a_stroke_cover_exactly_what_it_covers(stroke: Stroke, height: int, width: int) -> None:
    mask = drawn(stroke, (height, width))
    covered = np.zeros((height, width), np.bool_)
    for outline in outlines_of(mask):
        Polygon(outline).draw(covered)
    np.testing.assert_array_equal(covered, mask.astype(np.bool_))


NAMES = "top.png", "day1/1.png", "day1/2.png", "sorted.png"
STEPS = st.tuples(
    st.sampled_from([0, 1]), st.sampled_from(NAMES), st.sampled_from(LABELS), st.sampled_from([None, DRAWN, Areas()])
)


@given(steps=st.lists(STEPS, max_size=25), looks=st.sets(st.integers(0, 24)))
def test_whatever_two_people_do_each_picture_is_once_there_with_its_last_label(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, Label, Areas | None]], looks: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    fill_with_pictures(folder, "top.png", "day1/1.png", "day1/2.png", "OK/sorted.png", "ng/other.png")
    people = LabelFolder(folder), LabelFolder(folder)
    expected: dict[str, tuple[str, bool]] = dict.fromkeys(NAMES, ("unlabelled", False))
    expected |= {"sorted.png": ("good", False), "other.png": ("defective", False)}
    aside = dict.fromkeys(expected, False)
    seen = [dict(each.pictures()) for each in people]
    for number, (who, name, label, areas) in enumerate(steps):
        if number in looks:
            seen[who] = dict(people[who].pictures())
        before = seen[who][name]
        is_current = before[1:3] == people[1 - who].pictures()[name][1:3]
        areas = areas if label == "defective" else None
        with contextlib.nullcontext() if is_current else pytest.raises(ChangedMeanwhileError):
            seen[who][name] = people[who].relabel(name, label, before[1:3], areas)
        if not is_current:
            continue
        has = expected[name][1] or aside[name] if areas is None else bool(areas.boxes_xywh)
        expected[name], aside[name] = (label, has and label == "defective"), has and label != "defective"
    assert state(folder) == expected == {k: (v[1], v[2] > 0) for k, v in people[0].pictures().items()}
    assert len(list(folder.rglob("*.png"))) == len(expected)
    data = list_folder(folder, mixed=True)
    labelled = {name: each for name, each in expected.items() if each[0] != "unlabelled"}
    assert {image.name: image.defective for image in data.images} == {
        k: v[0] == "defective" for k, v in labelled.items()
    }
    for image in data.images:
        if expected[image.name][1]:
            mask, exact = image.mask(HW), drawn(DRAWN.strokes[0], HW)
            exact[3:13, 2:22] = 1
            np.testing.assert_array_equal(mask, exact.astype(np.bool_))


DIE_AT = """
import os, sys, msgspec
from heatline.edge.labels.folder import *
folder, name, label, at = LabelFolder(Path(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4])
areas = msgspec.json.decode(sys.argv[5], type=Areas) if label == "defective" else None
renames = []
def count(event, arguments):
    if event == "os.rename" and (renames.append(event) or len(renames) == at):
        os.kill(os.getpid(), 9)
sys.addaudithook(count)
folder.relabel(name, label, folder.pictures()[name][1:3], areas)
"""


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(("before", "after"), [("unlabelled", "defective"), ("defective", "good")])
def test_a_program_that_is_killed_between_two_moves_leaves_the_old_label_or_the_new_one(
    tmp_path: Path, before: Label, after: Label, at: int
) -> None:
    folder = LabelFolder(fill_with_pictures(tmp_path, "day1/1.png"))
    if before == "defective":
        folder.relabel("day1/1.png", before, ("unlabelled", 0), DRAWN)
    code = subprocess.run(
        [sys.executable, "-c", DIE_AT, tmp_path, "day1/1.png", after, str(at), msgspec.json.encode(DRAWN)], check=False
    ).returncode
    assert code == (0 if (after, at) == ("good", 3) else -signal.SIGKILL)
    assert state(tmp_path)["day1/1.png"] in {("unlabelled", False), ("good", False), ("defective", True)} - (
        {("good", False)} if code else {(before, True)}
    )
    again = LabelFolder(tmp_path)
    now = again.pictures()["day1/1.png"]
    assert again.relabel("day1/1.png", "defective", now[1:3]).places > 0 or before == "unlabelled"
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["images/1.png", "labels.csv"], "holds images/"),
        (["1.png", "masks/1.png"], "holds masks/"),
        (["train/good/1.png", "test/good/1.png"], "holds test/"),
        (["1.png", "labels.csv"], "holds labels.csv"),
        (["good/1.png", "scratch/2.png"], "move scratch/ into defective/"),
        (["1.png", "1.txt"], "lies beside its picture"),
    ],
)
def test_a_folder_whose_labels_are_not_folders_alone_is_refused(tmp_path: Path, names: list[str], part: str) -> None:
    fill_with_pictures(tmp_path, *[name for name in names if name.endswith("png")])
    for name in set(names) - {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.png")}:
        (tmp_path / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert part in complaint(heatline("label", tmp_path, "--listen", "127.0.0.1:0"))
    assert sorted(tmp_path.rglob("*")) == before, "nothing was made"


def test_pictures_of_one_name_are_not_mixed_up_and_shapes_of_labelme_stay(tmp_path: Path) -> None:
    fill_with_pictures(tmp_path, "good/1.png", "1.jpg", "2.png")
    (tmp_path / "labelme").mkdir()
    shape = {"label": "dent", "points": [[1, 1], [9, 1], [9, 9]], "flags": {}}
    (tmp_path / "labelme" / "2.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 40, "imageWidth": 60}))
    folder = LabelFolder(tmp_path)
    for name, each in folder.pictures().items():
        if each.twin is not None:
            with pytest.raises(InputError, match="have one name, and none is replaced"):
                folder.relabel(name, "defective", each[1:3])
    now = folder.relabel("2.png", "defective", folder.pictures()["2.png"][1:3], DRAWN)
    assert json.loads(msgspec.json.encode(folder.places_of(now))) == json.loads(msgspec.json.encode((DRAWN, [shape])))
    with pytest.raises(InputError, match="does not lie in its picture of 60x40 px"):
        folder.relabel("2.png", "defective", now[1:3], Areas(boxes_xywh=[(50, 3, 20, 10)]))
    now = folder.relabel("2.png", "defective", now[1:3], Areas())
    assert folder.places_of(now) == ({"boxes_xywh": [], "strokes": []}, [shape])


def post(port: int, picture: str, label: str, seen: object, **areas: object) -> Answer:
    body = json.dumps({"picture": picture, "label": label, "seen": seen, **areas})
    return page_at(port).request("POST", "/label/api/label", body, {})


def test_a_server_that_is_killed_keeps_what_it_confirmed_and_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    names = [f"day1/{number}.png" for number in range(12)]
    with small_disk(tmp_path / "pictures") as disk:
        fill_with_pictures(disk, *names)
        confirmed: dict[str, tuple[str, bool]] = {}
        for life in range(3):
            with serving("label", disk) as (process, page):
                for number, name in enumerate(names[4 * life : 4 * life + 4]):
                    areas = {"areas": {"boxes_xywh": [[1, 1, 5, 5]]}} if number == 1 else {}
                    assert post(page.port, name, LABELS[number % 3], ["unlabelled", 0], **areas).status == 200
                    confirmed[name] = LABELS[number % 3], bool(areas)
                process.kill()
            assert confirmed.items() <= state(disk).items()
        with serving("label", disk) as (_, page):
            later = post(page.port, names[0], "defective", ["unlabelled", 0])
            assert (later.status, f"changed {names[0]}: it is good now" in later.json["error"]) == (409, True)
            assert "it is gone now" in post(page.port, "none.png", "good", ["unlabelled", 0]).json["error"]
            for wrong in ("bad", "good"):
                assert post(page.port, names[0], wrong, ["good", 0], areas={"boxes_xywh": [[1, 1, 5, 5]]}).status in (
                    400,
                    500,
                )
            assert page.get("/label/api/frame.jpg?picture=..%2F..%2Fetc").status == 404
            fill(disk)
            full = post(page.port, names[0], "defective", ["good", 0], areas={"boxes_xywh": [[1, 1, 5, 5]]})
            assert full.status == 500
            assert "cannot be written (No space left on device)" in full.json["error"]
            assert state(disk) == {name: confirmed[name] for name in state(disk)}


def test_a_labelled_folder_is_trained_and_its_scores_find_wrong_labels_wherever_they_were_moved(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of blobs, the pictures with a disc are defective; two have their place, the others the label only."""
    monkeypatch.chdir(tmp_path)
    blobs = read_folder(draw_blobs(tmp_path / "blobs"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for image in blobs.images:
        image.path.rename(pictures / image.path.name)
    folder = LabelFolder(pictures)
    for number, image in enumerate(blobs.images):
        places = Areas(strokes=[Stroke(((60, 60), (90, 90)), 30)]) if image.defective and number < 6 else None
        folder.relabel(image.path.name, "defective" if image.defective else "good", ("unlabelled", 0), places)
    successful(heatline("train", pictures, "out=runs/first", *tiny))
    run = newest_run(pictures)
    assert run == Path("runs/first")
    scores: Mapping[str, float] = read_scores(run)
    assert scores.keys() == folder.pictures().keys()
    name, picture = next(iter(folder.pictures().items()))
    folder.relabel(name, "unlabelled", picture[1:3])
    assert name in read_scores(run)
    assert newest_run(tmp_path / "blobs") is None
    assert "name the folder of a finished heatline train" in complaint(heatline("label", pictures, "--run", tmp_path))
