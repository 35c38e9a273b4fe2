"""`import heatline`: results are those of the command and of a real line, examples run, and misuse is one sentence."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

import heatline
import heatline.edge.errors
from examples.drawn_boards.boards import draw_board
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import make_key_pair
from heatline.edge.images import read_rgb
from tests.command import DRAWN_BOARDS, ROOT, WITHIN_SECONDS, sentence_of
from tests.command import heatline as heatline_command
from tests.conftest import write_picture
from tests.edge.lines import line_started, small_frames, write_line_with, write_pictures
from tests.edge.secured import Secured, free_port
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.small_bundle import dark_square, white_frame

DEFECTIVE = dark_square(white_frame((230, 300)), 40, 60)
"""Larger than a tile."""


@pytest.fixture(scope="module")
def inspector(bundle: Bundle) -> Iterator[heatline.BundleInspector]:
    with heatline.open_bundle(bundle.path) as inspector:
        yield inspector


def blocks(document: str, heading: str) -> list[str]:
    """The examples in Python below a heading."""
    section = (ROOT / document).read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def same(event: heatline.VerdictEvent) -> heatline.VerdictEvent:
    """What two inspections of the same picture must agree on."""
    times = msgspec.structs.replace(event.times, captured_at_ns=0, captured_monotonic_ns=0)
    return msgspec.structs.replace(event, boot_id="", times=times, latency_ms=0.0)


def test_every_public_name_exists_and_every_error_is_in_the_family() -> None:
    for name in heatline.__all__:
        found = getattr(heatline, name)
        if name.endswith("Error"):
            assert found is getattr(heatline.edge.errors, name)
    with pytest.raises(AttributeError, match="no attribute 'inspect_everything'"):
        heatline.inspect_everything  # noqa: B018


def test_the_readme_inspects_a_board_as_the_command_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("README.md", "## From Python")
    assert len([line for line in example.splitlines() if line]) == 4
    (tmp_path / "boards.bundle").symlink_to(DRAWN_BOARDS)
    file = write_picture(tmp_path / "new-boards" / "images" / "board_00000.png", draw_board((2, 0)).image)
    shown: dict[str, Any] = {}
    with chdir(tmp_path):
        exec(example, shown)
        result = heatline_command("inspect", DRAWN_BOARDS, file.relative_to(tmp_path), "--out", "found", "--json")
    event = msgspec.json.decode(result.stdout, type=heatline.VerdictEvent)
    result = shown["result"]
    assert same(result.event) == same(event)
    assert (result.verdict, bool(result.regions)) == ("DEFECT", True)
    assert capsys.readouterr().out == f"DEFECT {event.frame_score} {[each.box_xyxy for each in event.regions]}\n"
    np.testing.assert_array_equal(result.overlay(), read_rgb(tmp_path / "found" / "00001_board_00000.png"))
    assert result.heatmap.shape == tuple(-(-side // result.cell_px) for side in result.picture.shape[:2])
    assert result.heatmap.max() == max(region.score for region in result.regions)


def test_pictures_come_as_a_folder_as_files_or_as_an_array(inspector: heatline.BundleInspector, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "frames", small_frames(3))
    files = sorted(folder.iterdir())
    for pictures in (folder, str(folder), files, np.stack([*small_frames(3).values()])):
        assert [result.verdict for result in inspector.inspect_all(pictures)] == ["GOOD", "GOOD", "DEFECT"]
    expected = inspector.inspect(DEFECTIVE)
    given: list[tuple[Any, Any]] = [
        (DEFECTIVE[..., ::-1], "BGR8"),  # a view with a negative stride
        (np.asfortranarray(DEFECTIVE), "RGB8"),
        (DEFECTIVE[..., 0].astype(np.uint16) << 4, "Mono12"),
    ]
    for picture, pixel_format in given:
        result = inspector.inspect(picture, pixel_format=pixel_format)
        assert (result.verdict, result.score, result.regions) == ("DEFECT", expected.score, expected.regions)
    results = [*inspector.inspect_all([files[2], tmp_path / "gone.png", str(files[0])])]
    assert [result.verdict for result in results] == ["DEFECT", "NO_VERDICT", "GOOD"]
    gone = results[1]
    assert (gone.reason, gone.score, gone.heatmap, gone.regions) == ("failed.unreadable", None, None, [])
    assert "gone.png cannot be read" in str(gone)
    for draw in (gone.overlay, lambda: gone.picture):
        with pytest.raises(heatline.InputError, match=r"gone\.png cannot be read"):
            draw()


def test_misuse_is_refused_in_one_sentence(bundle: Bundle, tmp_path: Path) -> None:
    gone, engine = tmp_path / "gone", "tensorrt"
    nobody, key = f"ipc://{tmp_path}/nobody", tmp_path / "mes.key"
    with heatline.open_bundle(bundle.path) as inspector:
        assert repr(inspector).startswith(f"<BundleInspector {inspector.bundle.name} ")
        begun = inspector.inspect_all([DEFECTIVE, DEFECTIVE])
        assert next(begun).verdict == "DEFECT"
        pictures: list[tuple[Any, Any, str]] = [
            (DEFECTIVE[..., 0], "RGB8", "expected 3 channel(s) of uint8"),
            (DEFECTIVE, "BGR", "there is no pixel_format 'BGR'; expected one of Mono8,"),
            (DEFECTIVE.tolist(), "RGB8", "expected the path of a picture or a NumPy array, got list"),
            ("gone.png", "RGB8", "gone.png cannot be read"),
        ]
        for picture, pixel_format, excerpt in pictures:
            call = partial(inspector.inspect, picture, pixel_format=pixel_format)
            assert excerpt in sentence_of(heatline.InputError, call)
        assert "is not a folder" in sentence_of(heatline.InputError, inspector.inspect_all, gone)
    inspector.close()
    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: inspector.inspect(DEFECTIVE), heatline.EngineError, "is closed"),
        (lambda: next(begun), heatline.EngineError, "is closed"),
        (lambda: heatline.open_bundle(gone), heatline.BundleError, "is not a bundle"),
        (lambda: heatline.open_bundle(bundle.path, engine=engine), heatline.EngineError, "expected openvino or onnx"),  # type: ignore[arg-type]
        (lambda: heatline.status(nobody, timeout_s=0.05), heatline.DeliveryError, f"no status came from {nobody}"),
        (lambda: heatline.trigger(nobody, "top", timeout_s=0.05), heatline.DeliveryError, "was not reached"),
        (lambda: heatline.subscribe("line1"), heatline.DeliveryError, "line1 is not an address"),
        (lambda: heatline.subscribe(nobody, key=key), heatline.AccessError, "key and line_key go together"),
    ]
    for call, kind, excerpt in calls:
        assert excerpt in sentence_of(kind, call)


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Iterator[tuple[Path, str, str, str]]:
    """Its folder and addresses. It shows three pictures over and over, and waits for triggers at another camera."""
    write_pictures(tmp_path / "frames", small_frames(3))
    journal, commands = f"ipc://{tmp_path}/journal", f"ipc://{tmp_path}/commands"
    cameras = {
        "top": {"kind": "folder", "path": str(tmp_path / "frames"), "rate_fps": 20.0, "loop": True},
        "side": {"kind": "pattern", "draw_size": [64, 48], "trigger": "software", "on_overload": "block"},
    }
    tables = f'[journal]\nfolder = "{tmp_path}"\nbind = "{journal}"\n[commands]\nbind = "{commands}"'
    with line_started(write_line_with(tmp_path, bundle.path, address, cameras, tables)):
        yield tmp_path, address, journal, commands


def verdicts(received: Any) -> Iterator[heatline.VerdictEvent]:
    """The verdicts on pictures, of messages or of what was delivered."""
    for each in received:
        assert isinstance(each, heatline.Message | heatline.Delivered)
        if isinstance(each.event, heatline.VerdictEvent) and each.event.verdict != "NO_VERDICT":
            yield each.event


def test_a_lines_verdicts_equal_the_inspectors_and_the_line_examples_run(
    line: tuple[Path, str, str, str], inspector: heatline.BundleInspector, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {result.event.source: result.event for result in inspector.inspect_all(line[0] / "frames")}
    with heatline.subscribe(line[1], topics=["verdict.top"], timeout_s=WITHIN_SECONDS) as events:
        live = [*islice(verdicts(events), 3)]
    with heatline.follow(line[2], "mes0", topics=["verdict.top"], timeout_s=WITHIN_SECONDS) as followed:
        assert [*takewhile(lambda event: event.seq <= live[-1].seq, verdicts(followed))][-3:] == live
    for event in live:
        own = expected[str(line[0] / "frames" / str(event.source))]
        for field in ("verdict", "frame_score", "regions", "score_threshold", "evidence_threshold", "bundle"):
            assert getattr(event, field) == getattr(own, field)
    assert {event.verdict for event in live} == {"GOOD", "DEFECT"}

    bound = dict(zip(("tcp://127.0.0.1:5556", "tcp://127.0.0.1:5558", "tcp://127.0.0.1:5557"), line[1:], strict=True))
    examples = blocks("docs/python.md", "## Listen to a line")
    assert len(examples) == 3
    capsys.readouterr()
    for example in examples:
        for documented, real in bound.items():
            example = example.replace(documented, real)
        exec(example, {})
    found, *followed_lines, status, frame = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"top \d+ DEFECT None", found)
    assert [row.split()[1] for row in followed_lines][-1] == "DEFECT"
    assert re.match(r"line Handshake\(state='(READY|DEGRADED)'", status), "a busy machine may not keep up"
    assert "camera='side'" in frame
    assert "part_id='P-1'" in frame


def test_a_line_with_keys_accepts_allowed_clients(tmp_path: Path) -> None:
    secured, port = Secured(tmp_path), free_port()
    secured.allow(make_key_pair(tmp_path / "mes.key"), "listen")
    keys = {"key": tmp_path / "mes.key", "line_key": tmp_path / "line.key.pub"}
    with StatusOnlyLine(port.bound, a_status(line="line7"), secured.access()):
        assert heatline.status(port.reached, timeout_s=WITHIN_SECONDS, **keys).line == "line7"
        assert "it requires keys" in sentence_of(heatline.AccessError, heatline.subscribe, port.reached)


def test_the_example_of_inspecting_runs(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/python.md", "## Inspect pictures")
    (tmp_path / "boards.bundle").symlink_to(bundle.path)
    pictures = {f"board_0000{number}.png": DEFECTIVE for number in range(2)}
    write_pictures(tmp_path / "new-boards" / "images", pictures)
    with chdir(tmp_path):
        exec(example, {})
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.startswith("DEFECT")] == ["DEFECT"] * 4
    assert cv2.imread(str(tmp_path / "overlay.png")).shape == DEFECTIVE.shape


def test_the_example_of_training_calls_existing_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it calls is run by the tests of training and export, which share one run and its bundle."""
    calls: list[dict[str, Any]] = []

    def noting(function: Callable[..., object]) -> Callable[..., Path]:
        def called(*given: Any, **named: Any) -> Path:
            calls.append(inspect.signature(function).bind(*given, **named).arguments)
            return Path(named.get("out", "bundle"))

        return called

    for name in ("train_model", "export_bundle"):
        monkeypatch.setattr(heatline, name, noting(getattr(heatline, name)))
    (example,) = blocks("docs/python.md", "## Train and export")
    exec(example, {})
    assert calls == [
        {"folder": "boards", "settings": ("recipe.folds=3",), "out": "runs/boards"},
        {"run": Path("runs/boards"), "to": "boards.bundle"},
    ]
