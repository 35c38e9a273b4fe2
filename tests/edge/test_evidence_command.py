"""`heatline evidence` lists, shows and exports stored pictures, and `heatline train` reads what it exports."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from heatline.edge.cli.watch import line_of
from heatline.edge.describe import COLUMNS, columns_of, describe_event
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.images import read_rgb
from heatline.edge.offline import InspectionResult
from heatline.edge.wire.events import ForeignArea, Pose
from heatline.train.readers.folder import read_folder
from tests.command import complaint, heatline
from tests.edge.evidences import DAY_NS, NOON_NS, SECOND_NS, frame, names, picture, store
from tests.edge.lines import write_line

INTERRUPTED = 130


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return heatline("evidence", *arguments)


def facts(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with a picture of each verdict on one day, and a DEFECT on the next."""
    folder = tmp_path / "evidence"
    store(
        folder,
        picture(1, "GOOD", at_ns=NOON_NS),
        picture(2, "DEFECT", at_ns=NOON_NS + SECOND_NS),
        picture(3, "NO_VERDICT", camera="side", at_ns=NOON_NS + 2 * SECOND_NS),
        picture(4, "DEFECT", at_ns=NOON_NS + DAY_NS),
    )
    return folder


def snapshot(folder: Path) -> list[tuple[str, bytes]]:
    return [(name, (folder / name).read_bytes()) for name in names(folder)]


# list


def test_the_newest_pictures_are_listed_first(folder: Path) -> None:
    result = run("list", folder)
    assert (result.returncode, result.stderr) == (0, "")
    heading, *rows = [line.split() for line in result.stdout.splitlines() if line.strip() and "─" not in line]
    assert heading == ["time", "(UTC)", "verdict", "camera", "part", "score", "reason", "review", "id"]
    assert [row[-1].rpartition("-")[2] for row in rows] == ["4", "3", "2", "1"]
    assert rows[0][:4] == ["2026-11-29", "12:00:00", "DEFECT", "top"]
    assert rows[1][:4] == ["2026-11-28", "12:00:02", "NO_VERDICT", "side"]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ((), [4, 3, 2, 1]),
        (("--since", "2026-11-29"), [4]),
        (("--verdict", "DEFECT"), [4, 2]),
        (("--camera", "side"), [3]),
        (("--limit", "1"), [4]),
        (("--since", "2026-11-28", "--verdict", "DEFECT", "--limit", "1"), [4]),
        (("--since", "2026-11-30"), []),
    ],
)
def test_filters_combine(folder: Path, options: tuple[str, ...], numbers: list[int]) -> None:
    listed = facts("list", folder, *options)
    assert listed["folder"] == str(folder)
    assert [entry["event"]["frame_number"] for entry in listed["entries"]] == numbers


def test_an_empty_list_says_so(folder: Path) -> None:
    assert run("list", folder, "--camera", "none").stdout == f"{folder} holds no such picture\n"


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "../etc", "2026-11-28x"])
def test_what_is_no_day_is_refused(folder: Path, day: str) -> None:
    result = run("list", folder, "--since", day)
    assert result.returncode == 2
    assert "does not match the format" in result.stderr


def test_a_line_is_named_by_its_file_or_its_folder(folder: Path, tmp_path: Path) -> None:
    def with_tables(tables: str) -> Path:
        return write_line(tmp_path, tmp_path / "none.bundle", "tcp://127.0.0.1:5556", {"top": 'path = "p"'}, tables)

    file = with_tables('[evidence]\nfolder = "evidence"')
    assert len(facts("list", file)["entries"]) == 4
    # Without a folder of its own, the pictures are in the folder of the journal.
    file = with_tables('[evidence]\n[journal]\nfolder = "."')
    assert len(facts("list", file)["entries"]) == 4
    for tables, sentence in (
        ("[evidence]", "names no folder for the pictures, and there is no state folder; set evidence.folder or "),
        ("", "has no table [evidence], so this line stores no pictures; add it to store them"),
    ):
        result = run("list", with_tables(tables))
        assert result.returncode == 3
        assert sentence in complaint(result)


@pytest.mark.parametrize("line", ["/nowhere/at/all", "tcp://127.0.0.1:5556", "no-such-line"])
def test_what_is_no_line_with_pictures_is_refused_in_one_sentence(line: str) -> None:
    result = run("list", line)
    assert result.returncode == 3
    assert line in complaint(result)


# show


def test_show_prints_what_is_known_and_writes_nothing(folder: Path) -> None:
    before = snapshot(folder)
    result = run("show", folder, "b007b007-top-2")
    assert (result.returncode, result.stderr) == (0, "")
    first, *rest = result.stdout.splitlines()
    assert first == "DEFECT, picture b007b007-top-2"
    assert f"{folder}/2026-11-28/b007b007-top-2.png" in result.stdout
    shown = "\n".join(rest)
    assert "captured at (UTC)  2026-11-28 12:00:01" in shown
    assert snapshot(folder) == before
    known = facts("show", folder, "b007b007-side-3")
    assert known["entry"]["event"]["verdict"] == "NO_VERDICT"
    assert (known["frame"], known["heatmap"]) == (str(folder / "2026-11-28" / "b007b007-side-3.png"), None)


def test_the_foreign_area_and_the_pose_of_a_defect_are_told_in_words(tmp_path: Path) -> None:
    defect, why = picture(1), "x 0 to 90, y 0 to 40 px does not look like the product"
    pose = Pose(x_px=12.04, y_px=-3.0, degrees=0.5, confidence=0.98, error_px=0.2)
    event = msgspec.structs.replace(defect.event, foreign_areas=[ForeignArea((0, 0, 90, 40), why)], pose=pose)
    store(tmp_path / "evidence", replace(defect, event=event))
    told = run("show", tmp_path / "evidence", str(event.picture)).stdout.split()
    assert f"foreign area: {why}" in " ".join(told)
    assert "pose 12.0 px right, -3.0 px down, 0.50 degrees clockwise of the reference" in " ".join(told)
    row = dict(zip(COLUMNS, columns_of(event, 1, event.topic, NOON_NS), strict=True))
    result = InspectionResult(event, None, 8, None, ColourScale(-4, 6))
    for text in (line_of(1, 0, describe_event(event)), row["detail"], str(result)):
        assert f"foreign area: {why}" in str(text)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "b007b007-top-2.json", "..", "a b"])
def test_an_id_that_could_lead_elsewhere_is_refused(folder: Path, name: str) -> None:
    result = run("show", folder, "--", name)
    assert result.returncode == 9
    assert "is not a picture id; expected up to 128 letters" in complaint(result)


def test_mistakes_with_show_are_named(folder: Path) -> None:
    assert "holds no picture b007b007-top-9; it was not stored or is deleted" in complaint(
        run("show", folder, "b007b007-top-9")
    )


# export


def test_an_export_is_read_by_train_and_leads_back_to_the_events(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    before = snapshot(folder)
    result = run("export", folder, out)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [f"2 pictures in {out / 'defective'}", f"1 picture in {out / 'good'}"]
    assert "The labels are the line's own verdicts" in result.stdout
    data = read_folder(out, mixed=True)
    assert {image.path.relative_to(out).as_posix(): image.defective for image in data.images} == {
        "good/2026-11-28_b007b007-top-1.png": False,
        "defective/2026-11-28_b007b007-top-2.png": True,
        "defective/2026-11-29_b007b007-top-4.png": True,
    }
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [
        "good/2026-11-28_b007b007-top-1.png",
        "defective/2026-11-28_b007b007-top-2.png",
        "defective/2026-11-29_b007b007-top-4.png",
    ]
    for row in rows:
        assert row["picture"] == row["event"]["picture"]
        np.testing.assert_array_equal(read_rgb(out / row["file"]), frame(row["event"]["frame_number"]))
    assert snapshot(folder) == before


def test_an_export_holds_copies_not_links(folder: Path, tmp_path: Path) -> None:
    run("export", folder, tmp_path / "new")
    copy = tmp_path / "new" / "good" / "2026-11-28_b007b007-top-1.png"
    original = folder / "2026-11-28" / "b007b007-top-1.png"
    assert not copy.is_symlink()
    assert not copy.samefile(original)
    assert copy.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("options", "pictures"),
    [
        (("--since", "2026-11-29"), {"defective": 1}),
        (("--verdict", "GOOD"), {"good": 1}),
        (("--verdict", "NO_VERDICT", "--verdict", "DEFECT"), {"no_verdict": 1, "defective": 2}),
    ],
)
def test_an_export_is_filtered(
    folder: Path, tmp_path: Path, options: tuple[str, ...], pictures: dict[str, int]
) -> None:
    out = tmp_path / "new"
    expected = {"folder": str(out), "pictures": pictures, "missing": 0, "contradictory": 0}
    assert facts("export", folder, out, *options) == expected
    assert {path.name: len(list(path.iterdir())) for path in out.iterdir() if path.is_dir()} == pictures


def test_pictures_of_one_id_are_exported_under_two_names(tmp_path: Path) -> None:
    store(tmp_path / "evidence", picture(1, image=frame(1)), picture(1, image=frame(2), at_ns=NOON_NS + DAY_NS))
    run("export", tmp_path / "evidence", tmp_path / "new")
    first, second = sorted((tmp_path / "new" / "defective").iterdir())
    np.testing.assert_array_equal(read_rgb(first), frame(1))
    np.testing.assert_array_equal(read_rgb(second), frame(2))


def test_a_folder_that_is_not_empty_is_refused_and_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    (out / "mine").write_text("mine")
    result = run("export", folder, out)
    assert result.returncode == 9
    assert f"{out} is not empty, and its files would be mixed with new ones; name a new folder" in complaint(result)
    assert [path.name for path in out.iterdir()] == ["mine"]
    nothing = run("export", folder, tmp_path / "other", "--since", "2030-01-01")
    assert "holds no picture to export" in complaint(nothing)
    assert not (tmp_path / "other").exists()


def test_a_picture_whose_frame_is_gone_is_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "2026-11-28" / "b007b007-top-2.png").unlink()
    result = run("export", folder, tmp_path / "new", "--json")
    assert json.loads(result.stdout)["missing"] == 1
    assert result.stderr == "warning: 1 picture could not be copied, as they were deleted meanwhile\n"


def test_an_interrupted_export_has_whole_pictures_each_with_its_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "evidence", *(picture(number, at_ns=NOON_NS + number) for number in range(5)))
    out = tmp_path / "new"
    import heatline.edge.cli.evidence as command

    copy: Callable[..., object] = command.shutil.copyfile

    def interrupted(source: Path, target: Path) -> None:
        copy(source, target)
        if source.stem.endswith("-3"):
            raise KeyboardInterrupt

    monkeypatch.setattr(command.shutil, "copyfile", interrupted)
    assert run("export", tmp_path / "evidence", out).returncode == INTERRUPTED
    rows = [json.loads(line)["file"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [f"defective/{path.name}" for path in sorted((out / "defective").iterdir())] == rows
    assert len(rows) == 3
    assert len(read_folder_names(out)) == 3


def read_folder_names(out: Path) -> list[str]:
    (out / "good").mkdir()
    assert cv2.imwrite(str(out / "good" / "one.png"), frame(0))
    return [image.path.name for image in read_folder(out, mixed=True).images if image.defective]
