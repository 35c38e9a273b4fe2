"""A line's own reference, by `heatline bundle set-reference` and `heatline calibrate`: made of good frames only."""

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import CameraPlausible, Plausible
from heatline.edge.bundle.manifest import Reference as DriftReference
from heatline.edge.calibration.recalibration import without_poses
from heatline.edge.drift import OF_POSE
from heatline.edge.frames import Frame, Stamp
from heatline.edge.images import read_rgb
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.reference.reference import Reference
from heatline.edge.util.sampling import evenly
from heatline.edge.wire.events import Event, VerdictEvent
from tests.command import complaint, heatline
from tests.edge.boards import board, board_bundle, moved
from tests.edge.lines import running, write_line_with, write_pictures
from tests.small_bundle import dark_square, edit_manifest

OLD, NEW = board(), board(seed=1)
STAY = (
    "the thresholds come from frames that were compared with another reference; set them again with heatline calibrate"
)
OWN = "camera side keeps a reference of its own; set it with heatline bundle set-reference --camera"
POSES = DriftReference(12, {measure: [0.0, 0.1, 0.2, 0.3, 0.4] for measure in ("brightness", *OF_POSE)})
ANY = Plausible(12, (1, 999), (1, 999), (0, None), (0, None), (0, None), None)
"""Every frame of these sizes looks like it."""


def frames(of: NDArray[np.uint8], count: int) -> dict[str, NDArray[np.uint8]]:
    return {f"{number:02d}.png": moved(of, 2 * number, -number) for number in range(count)}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return board_bundle(tmp_path_factory.mktemp("old") / "boards.bundle", {"": Reference(OLD)})


def reported(*arguments: str | Path) -> dict[str, Any]:
    result = heatline("bundle", "set-reference", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report


def refused(code: int, *arguments: str | Path) -> str:
    result = heatline("bundle", "set-reference", *arguments)
    assert result.returncode == code, result.stderr
    return complaint(result)


def judged(bundle: Path, folder: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> list[str]:
    write_pictures(folder, pictures)
    printed = heatline("inspect", bundle, folder, "--out", folder / "out", "--json").stdout.splitlines()
    return [event["reason"] or event["verdict"] for event in map(json.loads, printed)]


def test_a_new_design_is_inspected_without_training(tmp_path: Path, old: Bundle) -> None:
    before = {path.name: path.read_bytes() for path in old.path.iterdir()}
    good = write_pictures(tmp_path / "good", frames(NEW, 5))
    report = reported(old.path, good, "--to", tmp_path / "new.bundle")
    assert (report["version"], report["warnings"]) == ("1+ref1", [STAY])
    assert {path.name: path.read_bytes() for path in old.path.iterdir()} == before
    new = open_bundle(tmp_path / "new.bundle")
    assert report["digest"] == new.digest
    reference = new.references()[""]
    assert (reference.frame_hw, reference.frames, reference.made_of) == ((446, 560), 5, "5 good frames of good")
    inner = np.s_[30:-30, 30:-30]
    assert np.abs(reference.rgb[inner].astype(int) - NEW[inner]).mean() < 1
    changed = {name for name in new.manifest.files if new.manifest.files[name] != old.manifest.files[name]}
    assert changed == {"product.png"}
    assert new.manifest.calibration == old.manifest.calibration
    (record,) = new.manifest.provenance["references"]
    assert (record["parent"]["digest"], record["reference"]["frames"], record["camera"]) == (old.digest, 5, None)
    shown = {"1.png": moved(NEW, 7, 5), "2.png": dark_square(moved(NEW, 7, 5), 300, 400), "3.png": OLD}
    assert judged(new.path, tmp_path / "shown", shown) == ["GOOD", "DEFECT", "failed.misaligned"]
    printed = heatline("inspect", new.path, tmp_path / "shown" / "3.png", "--out", tmp_path / "out").stdout
    assert re.search(r"3.png: the frame does not .*confidence 0\.", printed)
    described = " ".join(heatline("bundle", "show", new.path, env={"COLUMNS": "400"}).stdout.split())
    assert "compared with 5 good frames of good, 560 x 446 px, product.png" in described
    changes = heatline("bundle", "diff", old.path, new.path, env={"COLUMNS": "400"}).stdout
    assert "5 good frames of good" in changes


def test_a_frame_that_the_model_rejects_among_the_others_is_refused_by_name(tmp_path: Path, old: Bundle) -> None:
    pictures = frames(OLD, 3) | {"01.png": dark_square(moved(OLD, 2, -1), 300, 400)}
    good = write_pictures(tmp_path / "good", pictures)
    sentence = refused(9, old.path, good, "--to", tmp_path / "new.bundle")
    assert f"1 of 3 frames is rejected when compared with the others, first {good / '01.png'} (score" in sentence
    assert "set thresholds and reference together with heatline calibrate" in sentence
    assert not (tmp_path / "new.bundle").exists()


def test_few_frames_cause_a_warning(tmp_path: Path, old: Bundle) -> None:
    pictures = write_pictures(tmp_path / "good", frames(OLD, 2))
    one, two = (reported(old.path, *files, "--dry-run") for files in ([pictures / "00.png"], [pictures]))
    for report in (one, two):
        assert report["warnings"][0].startswith("of 1 or 2 frames nobody can tell which is defective")
    assert one["written"] is None
    assert list(tmp_path.iterdir()) == [pictures]


def test_a_camera_gets_its_own_reference_and_the_others_keep_theirs(tmp_path: Path, old: Bundle) -> None:
    good = write_pictures(tmp_path / "good", frames(NEW, 3))
    reported(old.path, good, "--camera", "side", "--to", tmp_path / "side.bundle")
    side = open_bundle(tmp_path / "side.bundle")
    assert {camera: each.made_of for camera, each in side.references().items()} == {
        "": "one picture",
        "side": "3 good frames of good",
    }
    again = reported(side.path, good, "--dry-run")
    assert again["warnings"] == [STAY, OWN]
    wrong = heatline("bundle", "set-reference", old.path, good, "--camera", "a b")
    assert (wrong.returncode, "is not a camera name" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("camera", "others", "forget"), [("", ["side"], {"", "top"}), ("side", [], {"side"}), ("rear", [], set())]
)
def test_drift_forgets_poses_against_another_reference(
    bundle: Bundle, camera: str, others: list[str], forget: set[str]
) -> None:
    drift, own = POSES, CameraPlausible(ANY, [], [], POSES)
    known = msgspec.structs.replace(
        bundle.manifest.calibration, reference=drift, plausible_by_camera={"top": own, "side": own}
    )
    now = without_poses(known, camera, others)
    found = {"": now.reference, **{name: each.reference for name, each in now.plausible_by_camera.items()}}
    for name, reference in found.items():
        assert reference is not None
        assert list(reference.measures) == ["brightness", *(() if name in forget else OF_POSE)]
        assert set(reference.unwatched) == set(OF_POSE if name in forget else ())


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ({"1.png": np.full_like(OLD, 200), **frames(OLD, 1)}, "00.png"),
        (
            {"1.png": np.full_like(OLD, 200)},
            "1.png cannot be a reference, as frames cannot be aligned by what it shows",
        ),
        ({**frames(OLD, 3), "02.png": OLD[::-1, ::-1]}, "02.png does not fit {folder}/00.png: the frame does not"),
        ({**frames(OLD, 3), "00.png": OLD[::-1, ::-1]}, "00.png does not fit {folder}/01.png: the frame does not"),
        ({**frames(OLD, 3), "01.png": NEW}, "01.png does not fit {folder}/00.png: the frame does not"),
        ({**frames(OLD, 3), "01.png": np.rot90(OLD)}, "01.png does not fit {folder}/00.png: the frame has 446x560 px"),
        ({**frames(OLD, 2), "02.png": OLD[:, :500]}, "02.png does not fit {folder}/00.png: the frame has 500x446 px"),
        ({}, "holds no picture of a good part"),
        ({f"{at}.png": dark_square(OLD, 60, 60) if at % 2 else OLD for at in range(4)}, "would show a ghost there"),
    ],
    ids=[
        "one blank",
        "blank",
        "turned",
        "first turned",
        "other design",
        "turned by 90",
        "cut",
        "none",
        "half defective",
    ],
)
def test_frames_that_make_no_reference_are_refused_in_one_sentence(
    tmp_path: Path, old: Bundle, pictures: dict[str, NDArray[np.uint8]], reason: str
) -> None:
    folder = write_pictures(tmp_path / "good", pictures)
    sentence = refused(9, old.path, folder, "--to", tmp_path / "new.bundle")
    assert reason.format(folder=folder) in sentence
    assert not (tmp_path / "new.bundle").exists()


def test_a_bundle_that_compares_nothing_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    good = write_pictures(tmp_path / "good", frames(OLD, 1))
    assert "compares frames with no reference" in refused(4, bundle.path, good)


def noisy(of: NDArray[np.uint8], count: int) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    made = {name: np.clip(each + rng.normal(0, 6, each.shape), 0, 255) for name, each in frames(of, count).items()}
    return {name: each.astype(np.uint8) for name, each in made.items()}


def highest(bundle: Bundle, rgb: NDArray[np.uint8], others: list[NDArray[np.uint8]]) -> float:
    inspector = Inspector(bundle.manifest, open_verified_engine(bundle, "openvino", "f32").engine)
    return inspector.finish(inspector.start(Frame(Stamp("", 1), rgb, "RGB8"), reference=Reference.of(others, ""))).score


def shaken(of: NDArray[np.uint8], count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Frames with motion up to 0.5 px, light that differs by 10 %, and noise."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        frame = moved(of, *rng.uniform(-0.5, 0.5, 2)).astype(float)
        made.append(np.clip(frame * rng.uniform(0.9, 1) + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8))
    return made


@pytest.mark.parametrize("seed", [1, 2])
def test_frames_that_differ_in_light_noise_and_half_a_px_make_a_reference(seed: int) -> None:
    of = board(seed=seed)
    for count in (4, 6, 12):
        made = Reference.of(shaken(of, count, seed), "").grey.astype(int)
        assert np.abs(made[0] - made[2]).mean() < 20, "a border that is half outside a frame is not dark"


@pytest.mark.parametrize("name", ["bsdata", "hripcb_subset"])
def test_real_frames_make_a_reference_without_a_ghost(real_data: Path, name: str) -> None:
    rows = csv.DictReader((real_data / name / "labels.csv").read_text().splitlines())
    if name == "bsdata":
        files = [row["image"] for row in rows if row["label"] == "good" and row["width"] == "1130"]
    else:
        files = [row["image"] for row in rows if row["board"] == "10"]
    pictures = [read_rgb(real_data / name / "images" / files[at]) for at in evenly(len(files), 12)]
    pictures = [each for each in pictures if each.shape == pictures[0].shape]
    assert len(pictures) > 4
    Reference.of(pictures, "")


def test_copies_of_a_frame_do_not_judge_each_other(tmp_path: Path, old: Bundle) -> None:
    defective = dark_square(moved(OLD, 4, -2), 300, 400)
    good = write_pictures(tmp_path / "good", frames(OLD, 3) | {"2.png": defective, "3.png": defective})
    assert f"1 of 4 frames is rejected when compared with the others, first {good / '2.png'}" in refused(
        9, old.path, good, "--dry-run"
    )
    scores = json.loads(heatline("calibrate", old.path, good, "--dry-run", "--json").stdout)["good_frames"]["hottest"]
    assert scores[0]["highest_logit"] == pytest.approx(scores[1]["highest_logit"])
    assert scores[0]["highest_logit"] > scores[2]["highest_logit"] + 1
    same = write_pictures(tmp_path / "same", dict.fromkeys(("1.png", "2.png", "3.png"), OLD))
    assert "1 different good frame came" in complaint(heatline("calibrate", old.path, same, "--dry-run"))


def test_frames_that_made_the_kept_reference_cause_a_warning(tmp_path: Path, old: Bundle) -> None:
    good = write_pictures(tmp_path / "good", frames(OLD, 4))
    others = write_pictures(tmp_path / "others", {f"{at}.png": moved(OLD, -3 * at, at) for at in range(1, 4)})
    reported(old.path, good, "--to", tmp_path / "made.bundle")
    reported(tmp_path / "made.bundle", others, "--to", tmp_path / "other.bundle")

    def warned(bundle: str, *arguments: str | Path) -> list[str]:
        report = json.loads(heatline("calibrate", tmp_path / bundle, *arguments, "--dry-run", "--json").stdout)
        found = [each for each in report["warnings"] if "the reference was made from" in each]
        bound = report["calibration"]["false_reject_at_most"]
        assert (bound is None) == bool(found)
        return found

    (warning,) = warned("made.bundle", good, "--keep-reference")
    assert warning.startswith(f"the reference was made from {good / '00.png'} and 3 more of these frames: they differ")
    assert not warned("made.bundle", others, "--keep-reference")
    assert not warned("made.bundle", good)
    assert not warned("other.bundle", good, "--keep-reference"), "they made an older one"


def test_calibration_compares_each_frame_with_a_reference_of_the_others(tmp_path: Path, old: Bundle) -> None:
    pictures = noisy(NEW, 4)
    good = write_pictures(tmp_path / "good", pictures)
    arguments = "calibrate", old.path, good, "--to", tmp_path / "new.bundle", "--json"
    report = json.loads(heatline(*arguments).stdout)
    new = open_bundle(tmp_path / "new.bundle")
    assert report["compared_with"] == {"": "4 good frames of good"}
    assert new.references()[""].made_of == "4 good frames of good"
    assert new.manifest.provenance["calibrations"][0]["reference"]["file"] == "product.png"
    found = {Path(each["file"]).name: each["highest_logit"] for each in report["good_frames"]["hottest"]}
    for name, score in found.items():
        others = [each for other, each in pictures.items() if other != name]
        assert score == pytest.approx(highest(old, pictures[name], others), abs=1e-3)
        assert abs(score - highest(old, pictures[name], list(pictures.values()))) > 0.01, "it has no part in it"
    kept = heatline("calibrate", old.path, good, "--keep-reference", "--dry-run")
    assert "4 of 4 pictures cannot be compared with the reference, first" in complaint(kept)
    few = heatline("calibrate", old.path, good / "00.png", "--dry-run")
    assert "1 different good frame came, and a new reference needs 3" in complaint(few)


@pytest.mark.parametrize("keep", [False, True])
def test_calibration_forgets_poses_against_the_old_reference_and_names_cameras_that_keep_theirs(
    tmp_path: Path, keep: bool
) -> None:
    both = board_bundle(tmp_path / "both.bundle", {"": Reference(OLD), "side": Reference(OLD)})
    own = CameraPlausible(ANY, [], [], POSES)
    known = {camera: msgspec.to_builtins(own) for camera in ("top", "side")}
    edit_manifest(both.path, lambda manifest: manifest["calibration"].update(plausible_by_camera=known))
    good = write_pictures(tmp_path / "good", frames(OLD, 4))
    arguments = "calibrate", both.path, good, "--to", tmp_path / "new.bundle", "--json"
    made = heatline(*arguments, *(["--keep-reference"] if keep else []))
    assert made.returncode == 0, made.stderr
    assert (OWN in json.loads(made.stdout)["warnings"]) != keep
    cameras = open_bundle(tmp_path / "new.bundle").manifest.calibration.plausible_by_camera
    assert cameras["side"].reference == POSES
    assert (cameras["top"].reference == POSES) == keep


def test_calibration_of_a_camera_keeps_the_references(tmp_path: Path) -> None:
    both = board_bundle(tmp_path / "both.bundle", {"": Reference(OLD), "side": Reference(OLD)})
    cameras = {name: {"kind": "pattern", "size": [560, 446]} for name in ("top", "side")}
    line = write_line_with(tmp_path, both.path, "tcp://127.0.0.1:1", cameras)
    good = write_pictures(tmp_path / "good", frames(OLD, 4))
    other = write_pictures(tmp_path / "other", frames(NEW, 3))
    for camera in cameras:
        target = tmp_path / f"{camera}.bundle"
        made = heatline("cameras", "calibrate", line, camera, good, "--to", target, "--json")
        assert made.returncode == 0, made.stderr
        references = open_bundle(target).references()
        assert {name: each.made_of for name, each in references.items()} == {"": "one picture", "side": "one picture"}
        refused = heatline("cameras", "calibrate", line, camera, other)
        assert "cannot be compared with the reference" in complaint(refused)


def test_each_product_of_a_line_is_compared_with_its_own_reference(tmp_path: Path, old: Bundle, address: str) -> None:
    boards = {"a": OLD, "b": NEW}
    for product, of in boards.items():
        reported(old.path, write_pictures(tmp_path / product, frames(of, 3)), "--to", tmp_path / f"{product}.bundle")
    shown = {f"{product}.png": moved(of, 9, -6) for product, of in boards.items()}
    write_pictures(tmp_path / "shown", shown | {"b-defect.png": dark_square(shown["b.png"], 300, 400)})
    camera = {"kind": "folder", "path": "shown", "loop": True, "rate_fps": 10, "on_overload": "block"}
    products = "".join(f'\n[[products]]\nname = "{name}"\nbundle = "{tmp_path}/{name}.bundle"\n' for name in boards)
    commands = f"ipc://{tmp_path}/commands"
    tables = f'\n[commands]\nbind = "{commands}"\n{products}'
    line = write_line_with(tmp_path, tmp_path / "a.bundle", address, {"top": camera}, tables, top='product = "a"')
    checked = heatline("check", line, env={"COLUMNS": "400"})
    assert "compared with 3 good frames of a, 560 x 446 px, product.png" in " ".join(checked.stdout.split())
    assert ", compared with 3 good frames of b" in checked.stdout
    answers: set[tuple[str | None, str, str]] = set()

    def answered(product: str) -> Callable[[Event], bool]:
        def last_of(event: Event) -> bool:
            if isinstance(event, VerdictEvent):
                answers.add((event.product, Path(str(event.source)).stem, event.reason or event.verdict))
            return len({source for of, source, _ in answers if of == product}) == 3

        return last_of

    with running(line, address) as run:
        run.until(answered("a"))
        selected = heatline("select", commands, "b")
        assert selected.returncode == 0, selected.stderr
        run.until(answered("b"))
    assert answers == {
        ("a", "a", "GOOD"),
        ("a", "b", "failed.misaligned"),
        ("a", "b-defect", "failed.misaligned"),
        ("b", "a", "failed.misaligned"),
        ("b", "b", "GOOD"),
        ("b", "b-defect", "DEFECT"),
    }
