"""A line without a bundle: no frame gets a verdict, what people keep outlives every kill, and a bundle ends it."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.discovery import Found, Listed
from heatline.edge.cli import new
from heatline.edge.config import load_config
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.images import read_image
from heatline.edge.labels.collected import ENOUGH_GOOD, count_collected, name_of
from heatline.edge.labels.folder import Label, LabelFolder
from heatline.edge.monitor.memory import Memory
from heatline.edge.wire.events import COLLECTING, AlarmEvent, StatusEvent, StepEvent, VerdictEvent, event_from
from tests.command import complaint, heatline, successful
from tests.edge.fault_disks import fill, small_disk
from tests.edge.lines import (
    RunningLine,
    running,
    write_line_with,
)
from tests.edge.secured import answers, free_port, until
from tests.edge.view_pages import Answer, Page, line_with_marks, marked, page, page_at, picture

CAMERA = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 20}
JSON = {"Content_Type": "application/json"}


def pictures(folder: Path) -> dict[str, list[str]]:
    return {label: sorted(each.name for each in (folder / label).glob("*.png")) for label in ("good", "defective")}


def keep(at: Page, name: str, kind: str, by: str = "Anna") -> Answer:
    return at.request("POST", "/api/marks", json.dumps({"picture": name, "kind": kind, "by": by}), JSON)


class Line:
    """A line that collects, with a page and a journal."""

    def __init__(self, folder: Path, address: str, camera: Any = CAMERA, tables: str = "") -> None:
        self.folder, self.address = folder / "pictures", address
        self.port = free_port().number
        web = f'[web]\nlisten = "127.0.0.1:{self.port}"\n[journal]\nfolder = "journal"\n{tables}'
        self.file = write_line_with(folder, None, address, {"top": camera}, web)
        self.page = page_at(self.port)

    def running(self) -> Any:
        return running(self.file, self.address)

    def newest(self) -> str:
        """Wait for a picture on the page, and return its id."""
        found: list[str] = []

        def shown() -> bool:
            try:
                rows = self.page.get("/api/verdicts?limit=20").json["rows"]
            except OSError:  # it is being started
                return False
            found[:] = [row["id"] for row in rows if self.page.get(f"/api/pictures/{row['id']}").status == 200]
            return bool(found)

        until(shown)
        return found[-1]

    def marks(self) -> list[tuple[str, str, str]]:
        with JournalReader.open(self.file.with_name("journal")) as reader:
            events = [event_from(record.header) for record in reader.newest(100, ["review"])]
        return [(event.mark.kind, event.mark.by, event.mark.picture) for event in events]


def unlabelled(line: Line) -> list[str]:
    return [each.name for each in (line.folder / "unlabelled").glob("*.png")]


def until_collected(run: RunningLine) -> VerdictEvent:
    return run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == COLLECTING)


def test_no_frame_gets_a_verdict_until_a_bundle_is_loaded_between_two_frames_and_again_without_it(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line = Line(tmp_path, address, CAMERA | {"on_overload": "block"}, "[collect]\nevery = 5")
    checked = heatline("check", line.file)
    assert (checked.returncode, "to collect pictures: no frame gets a verdict" in checked.stdout) == (0, True)
    with line.running() as run:
        first = until_collected(run)
        assert (first.verdict, first.frame_score, first.regions, first.heatmap) == ("NO_VERDICT", None, [], None)
        told = first.score_threshold, first.evidence_threshold, first.precision, first.bundle
        assert told == (None, None, None, None)
        beats = run.until_handshake("NOT_READY", "collecting").heartbeat
        run.until(lambda event: isinstance(event, StatusEvent) and event.handshake.heartbeat > beats + 1)
        status = heatline("status", line.file)
        assert (status.returncode, "NOT_READY (collecting)" in status.stdout) == (18, True)
        until(lambda: len(unlabelled(line)) > 2)
        text = line.file.read_text()
        successful(heatline("reload", line.file, "--bundle", bundle.path))
        assert line.file.read_text() == f'bundle = "{bundle.path}"\n{text}'
        inspected = run.until_inspected()
        assert inspected.bundle is not None
        assert inspected.bundle.digest == bundle.digest
        run.until_handshake("READY")
        kept = len(unlabelled(line))
        line.file.write_text(text)
        run.reload()
        until_collected(run)
        received = run.end(["top"])
    assert [change.bundle is None for change in received.changes] == [False, True]
    assert {event.reason for event in received.verdicts if event.verdict == "NO_VERDICT"} <= {
        COLLECTING,
        "dropped.stopped",
    }
    assert len(unlabelled(line)) >= kept
    image, _ = read_image(line.folder / "unlabelled" / unlabelled(line)[0])
    assert image.shape[:2] == (240, 240)


def test_what_people_keep_outlives_a_kill_of_the_page_and_of_the_line(tmp_path: Path, address: str) -> None:
    line, kept = Line(tmp_path, address), {}
    for life in range(2):
        with line.running() as run:
            for kind in ("good", "defective"):
                name = line.newest()
                until(lambda: keep(line.page, name, kind).status == 200)  # noqa: B023  # a slow disk may need a second
                kept[name] = kind
                for words in ("monitor", "cameras"):
                    os.kill(run.child(words), signal.SIGKILL)
                until_collected(run)
            assert run.next_of(AlarmEvent).active
            run.process.kill()
        assert {name: kind for kind, _, name in line.marks()} == kept, life
    assert {by for _, by, _ in line.marks()} == {"Anna"}
    assert {label: len(names) for label, names in pictures(line.folder).items()} == {"good": 2, "defective": 2}


def test_each_triggered_frame_is_kept_under_its_part(tmp_path: Path, address: str) -> None:
    commands = f"ipc://{tmp_path}/commands"
    tables = f'[collect]\ntriggered = true\n[commands]\nbind = "{commands}"'
    line = Line(tmp_path, address, {"kind": "pattern", "trigger": "software"}, tables)
    with line.running() as run, Commander(commands, 60) as to_line:
        run.until_handshake("NOT_READY", "collecting")
        until(lambda: answers(line.port))  # the keeper has started before
        for part, begins, count in (("P-1", "P~1_top_", 1), ("P-1", "P~1_top_", 2), ("lot_2/7", "lot~2~7_top_", 1)):
            to_line.trigger("top", part)
            until(lambda: sum(name.startswith(begins) for name in unlabelled(line)) == count)  # noqa: B023
        name = unlabelled(line)[0]
        wanted = {"picture": name, "label": "good", "seen": ["unlabelled", 0], "by": "Anna"}
        assert line.page.request("POST", "/label/api/label", json.dumps(wanted), JSON).status == 200
        step = run.next_of(StepEvent)
        assert (step.step, step.by, step.detail) == ("labelled", "Anna", f"{name} is good")
        run.end()


def test_a_full_disk_is_one_sentence_on_page_and_status_and_the_rest_goes_on(tmp_path: Path, address: str) -> None:
    with small_disk(tmp_path / "pictures", mib=4) as disk:
        line = Line(tmp_path, address, tables="[collect]\nevery = 2")
        with line.running() as run:
            assert keep(line.page, line.newest(), "good").status == 200
            filler = fill(disk)
            answers = list[Answer]()  # one that was kept without a label is only moved, which needs no room
            until(lambda: answers.append(keep(line.page, line.newest(), "good")) or answers[-1].status == 500)
            assert "cannot be written (No space left on device)" in answers[-1].json["error"]
            said = run.until(lambda event: isinstance(event, StatusEvent) and event.collect and event.collect.fault)
            assert (said.handshake.reason, "No space left" in said.handshake.detail) == ("collecting", True)
            filler.unlink()
            run.until(lambda event: isinstance(event, StatusEvent) and event.collect and not event.collect.fault)
            assert keep(line.page, line.newest(), "defective").status == 200
            run.end()
    assert {kind for kind, _, _ in line.marks()} == {"good", "defective"}


# In this process.


@contextmanager
def collecting_page(folder: Path, memory: Memory, socket: Path = Path("/no-line")) -> Iterator[Page]:
    file = folder / "line.toml"
    file.write_text('[[cameras]]\nkind = "pattern"\nname = "top"\n')
    with page(memory, line_socket=socket, file=file) as served:
        yield served


def collected(number: int = 1, **what: Any) -> VerdictEvent:
    return marked(number, "NO_VERDICT", reason=COLLECTING, bundle=None, score_threshold=None, **what)


def test_a_picture_stays_if_its_mark_is_lost_is_kept_once_and_can_be_taken_back(tmp_path: Path) -> None:
    memory = Memory()
    memory.add_picture(picture(collected(), is_judged=False))
    memory.add_picture(picture(marked(2), is_judged=False))
    name, judged = "01234567-top-1", "01234567-top-2"
    with collecting_page(tmp_path, memory) as served:  # the program ends between the two
        lost = keep(served, name, "good")
        assert (lost.status, "is kept, and who kept it is not known: " in lost.json["error"]) == (503, True)
    folder = tmp_path / "pictures"
    assert [len(each) for each in pictures(folder).values()] == [1, 0]
    with (
        line_with_marks(tmp_path / "journal", memory) as (socket, came),
        collecting_page(tmp_path, memory, socket) as served,
    ):
        for wrong, kind, words in ((name, "right", "kept as good or defective"), (judged, "good", "once it inspects")):
            refused = keep(served, wrong, kind)
            assert (refused.status, words in refused.json["error"]) == (400, True)
        assert [keep(served, name, kind).status for kind in ("good", "defective")] == [200, 200]
        assert [len(each) for each in pictures(folder).values()] == [0, 1]
        assert keep(served, name, "withdrawn", "Ben").status == 409
        assert keep(served, name, "withdrawn").status == 200
        answer = served.get("/api/collected").json
    assert answer["labels"] == {"good": 0, "defective": 0, "unlabelled": 1}
    assert "a label for 1 picture" in answer["missing"]
    assert [mark.kind for mark in came] == ["good", "defective", "withdrawn"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["good", "defective", None])), max_size=12))
def test_each_picture_is_in_exactly_one_folder_that_of_its_last_label(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Label | None]]
) -> None:
    folder, last = LabelFolder(tmp_path_factory.mktemp("labels")), dict[str, Label]()
    for name, label in steps:
        last[name] = label or last.get(name, "unlabelled")
        assert folder.put(f"{name}.png", name.encode(), label).read_bytes() == name.encode()
    assert {name[0]: each.label for name, each in folder.pictures().items()} == last


def test_what_is_missing_counts_parts_and_asks_for_another_shift(tmp_path: Path) -> None:
    folder, hour_ns = LabelFolder(tmp_path), 3600 * 10**9
    assert count_collected(tmp_path).missing[0] == "20 more good parts, of another shift if you can"
    for number in range(1, 9):
        event = collected(number, part_id=f"P-{number // 2}")
        times = replace(event.times, captured_at_ns=number * 2 * hour_ns)
        folder.put(name_of(replace(event, times=times)), b"1", "good")
    found = count_collected(tmp_path)
    assert (found.labels["good"], found.parts["good"], len(found.days)) == (8, 5, 1)
    assert found.missing[0] == f"{ENOUGH_GOOD - 5} more good parts"


# `heatline new`.


def cameras(*addresses: str) -> Listed:
    return Listed([Found({"kind": "genicam", "address": each}, "Acme X", "GigE Vision") for each in addresses], None)


def test_new_writes_a_line_with_the_camera_that_it_finds_and_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "list_all", lambda: cameras("10.0.0.7"))
    made = heatline("new", "line1", cwd=tmp_path)
    assert (made.returncode, "heatline run line1.toml" in made.stdout) == (0, True)
    config = load_config(tmp_path / "line1.toml")
    assert (config.bundle, config.cameras[0].address, config.acting) == (None, "10.0.0.7", False)  # type: ignore[union-attr]
    text = (tmp_path / "line1.toml").read_text()
    assert "exists; choose another name" in complaint(heatline("new", "line1", cwd=tmp_path))
    assert (tmp_path / "line1.toml").read_text() == text
    wrong = heatline("new", "line2", "--camera", "kind=genicam", "--camera", "adress=1", cwd=tmp_path)
    assert "does not know the key adress" in complaint(wrong)
    assert [each.name for each in tmp_path.iterdir()] == ["line1.toml"]


def test_new_asks_on_a_terminal_which_of_several_cameras_and_elsewhere_says_how_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "list_all", lambda: cameras("10.0.0.7", "10.0.0.8"))
    said = complaint(heatline("new", "line1", cwd=tmp_path))
    assert "2 cameras were found; choose one with: --camera kind=genicam --camera address=10.0.0.7; " in said
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as person, os.fdopen(theirs, "r") as terminal:
        person.write(b"2\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "stdin", terminal)
        new.new(["line1"], standalone_mode=False)
    assert load_config(tmp_path / "line1.toml").cameras[0].address == "10.0.0.8"  # type: ignore[union-attr]
    monkeypatch.setattr(new, "list_all", lambda: cameras())
    assert "or pattern, with --camera" in complaint(heatline("new", "line2", cwd=tmp_path))
