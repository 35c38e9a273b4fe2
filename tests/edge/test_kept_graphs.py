"""Compiled graphs that are kept: nothing is taken but what was kept, and whatever is there, lines start."""

import hashlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from edge.bundle import Bundle, ProvenEngine, open_proven_engine
from edge.bundle.kept_graphs import KEPT, MARK, MOST_KEPT, TRIED, KeptGraphs
from edge.inference import infer
from edge.inference.devices import the_core
from tests.command import heatline
from tests.edge.lines import running, small_frames, write_line, write_pictures
from tests.small_bundle import bundle_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each graph that OpenVINO compiles."""
    came: list[int] = []
    compile_model = ov.Core.compile_model

    def counted(*arguments: object, **keys: object) -> ov.CompiledModel:
        came.append(1)
        return compile_model(*arguments, **keys)

    monkeypatch.setattr(ov.Core, "compile_model", counted)
    return came


def proven(bundle: Bundle, folder: Path | None, **settings: int) -> ProvenEngine:
    return open_proven_engine(bundle, cache=folder, **{"threads": 1, **settings})


def opened_and_closed(bundle: Bundle, folder: Path, **settings: int) -> None:
    proven(bundle, folder, **settings).engine.close()


def the_one(folder: Path) -> Path:
    (found,) = folder.iterdir()
    assert found.suffix == KEPT
    return found


def test_a_graph_is_compiled_once_and_answers_the_same_from_then_on(
    bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tiles = bundle.golden().tiles
    with_one = [infer(proven(bundle, folder).engine, tiles) for _ in range(3)]
    assert len(compiled) == 1
    without = infer(proven(bundle, None).engine, tiles)
    for logits, maps in with_one:
        np.testing.assert_array_equal(logits, without[0])
        np.testing.assert_array_equal(maps, without[1])
    assert the_one(folder).stat().st_mode & 0o777 == 0o600
    assert caplog.records == []


def test_its_golden_tiles_are_run_and_its_precision_is_looked_at_whatever_it_came_from(
    bundle: Bundle, folder: Path
) -> None:
    first, second = proven(bundle, folder), proven(bundle, folder)
    assert second.differences == first.differences
    assert (second.engine.precision, second.fell_back) == ("f32", None)


@pytest.mark.parametrize("settings", [{"batch": 2}, {"threads": 2}, {"threads": 2, "streams": 1}])
def test_other_settings_are_another_graph(
    bundle: Bundle, folder: Path, compiled: list[int], settings: dict[str, int]
) -> None:
    opened_and_closed(bundle, folder)
    opened_and_closed(bundle, folder, **settings)
    assert len(compiled) == len(list(folder.iterdir())) == 2


def test_each_precision_and_each_bundle_has_its_own(tmp_path: Path, folder: Path, compiled: list[int]) -> None:
    both = bundle_in(tmp_path / "both", ("f32", "int8"))
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=100.0)
    for _ in range(2):
        for bundle in (both, other):
            for precision in ("f32", "int8"):
                assert open_proven_engine(bundle, precision=precision, threads=1, cache=folder).fell_back is None
    assert len(compiled) == len(list(folder.iterdir())) == 4


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(MARK) + 5],
        lambda data: data + b"x",
        flip,
        lambda data: b"y" + data[1:],
        lambda data: os.urandom(3000),
    ],
    ids=["empty", "a byte less", "half", "hardly more than the mark", "a byte more", "a bit", "the mark", "garbage"],
)
def test_one_that_is_damaged_is_compiled_anew_loudly_and_kept_anew(
    bundle: Bundle,
    folder: Path,
    compiled: list[int],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[bytes], bytes],
) -> None:
    opened_and_closed(bundle, folder)
    kept = the_one(folder)
    good = kept.read_bytes()
    kept.write_bytes(spoil(good))
    opened_and_closed(bundle, folder)
    (record,) = caplog.records
    assert (record.levelno, len(compiled)) == (logging.WARNING, 2)
    assert "it is damaged" in record.getMessage()
    opened_and_closed(bundle, folder)
    assert (len(compiled), len(caplog.records)) == (2, 1)


def forged(kept: Path, graph: bytes) -> None:
    """What somebody could leave there who knows how it is done."""
    key = kept.stem
    kept.write_bytes(MARK + hashlib.sha256(key.encode() + graph).digest() + graph)


@pytest.mark.parametrize("graph", [b"", b"no graph at all", b"RR_UPCVO" + bytes(500)])
def test_one_that_openvino_cannot_read_is_compiled_anew(
    bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture, graph: bytes
) -> None:
    opened_and_closed(bundle, folder)
    forged(the_one(folder), graph)
    opened_and_closed(bundle, folder)
    assert len(compiled) == 2
    assert "OpenVINO cannot use a graph that was compiled before" in caplog.text
    opened_and_closed(bundle, folder)
    assert len(compiled) == 2


def test_one_that_answers_otherwise_fails_its_golden_tiles_and_is_compiled_anew(
    tmp_path: Path, bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=300.0)
    core = the_core()
    model = core.read_model(other.path / "model_int8.xml")
    model.reshape({"tiles": [1, 224, 224, 3]})
    opened_and_closed(bundle, folder)
    forged(the_one(folder), bytes(core.compile_model(model, "CPU", {"NUM_STREAMS": 1}).export_model().getvalue()))
    compiled.clear()
    found = proven(bundle, folder)
    assert (len(compiled), max(found.differences.values()) < 1e-4) == (1, True)
    assert "of no use: on this machine openvino in f32 is off by" in caplog.text


def test_anothers_graph_is_none_though_it_is_whole(
    tmp_path: Path, bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    opened_and_closed(bundle, folder)
    first = the_one(folder)
    opened_and_closed(bundle, folder, batch=2)
    second = next(path for path in folder.iterdir() if path != first)
    second.replace(first)
    opened_and_closed(bundle, folder)
    assert len(compiled) == 3
    assert "it is damaged" in caplog.text


def open_to_others(kept: Path) -> None:
    kept.chmod(0o622)


def in_an_open_folder(kept: Path) -> None:
    kept.parent.chmod(0o777)


def a_link(kept: Path) -> None:
    kept.rename(kept.parent.parent / "elsewhere")
    kept.symlink_to(kept.parent.parent / "elsewhere")


@pytest.mark.parametrize("how", [open_to_others, in_an_open_folder, a_link])
def test_one_that_others_could_have_written_is_not_read(
    bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture, how: Callable[[Path], None]
) -> None:
    opened_and_closed(bundle, folder)
    how(the_one(folder))
    opened_and_closed(bundle, folder)
    assert len(compiled) == 2
    assert "others can write it" in caplog.text or "it is a symbolic link" in caplog.text


def test_one_that_brought_the_process_down_is_not_tried_again(
    bundle: Bundle,
    folder: Path,
    compiled: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened_and_closed(bundle, folder)
    kept = the_one(folder)
    with monkeypatch.context() as patched:
        patched.setattr("edge.bundle.proven_engine.check_golden", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            proven(bundle, folder)
    assert [path.suffix for path in folder.iterdir()] == [TRIED]
    opened_and_closed(bundle, folder)
    assert (len(compiled), the_one(folder)) == (2, kept)
    assert "did not come through" in caplog.text


def test_those_that_were_not_used_for_longest_go(tmp_path: Path, folder: Path) -> None:
    graphs = KeptGraphs(folder, "digest")
    for number in range(MOST_KEPT):
        graphs.keep(f"{number}", lambda number=number: bytes([number]))
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for age, path in enumerate(sorted(files)):
        os.utime(path, ns=(age, age))
    (folder / f"half{TRIED}").touch()
    oldest, *others = sorted(files)
    graphs.keep("one more", lambda: b"one more")
    there = {path for path in folder.iterdir() if path.suffix == KEPT}
    assert oldest not in there
    assert set(others) <= there
    assert len(there) == MOST_KEPT
    assert KeptGraphs(folder, "digest").take("one more") == b"one more"


def test_a_folder_that_cannot_be_used_keeps_no_line_from_starting(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert proven(bundle, tmp_path / "file").fell_back is None
    assert proven(bundle, tmp_path / "nowhere").fell_back is None
    warned = [record.getMessage() for record in caplog.records]
    assert sum("cannot be kept in" in each for each in warned) == 2


@pytest.mark.long
def test_the_service_keeps_its_graph_where_systemd_says_and_starts_whatever_becomes_of_it(
    tmp_path: Path, bundle: Bundle, folder: Path, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})

    def verdicts() -> tuple[list[str], str]:
        with running(line, address, env={"CACHE_DIRECTORY": str(folder)}) as run:
            heard = run.until_stopped()
            _, log = run.process.communicate()
        assert run.process.returncode == 0, log
        return [event.verdict for event in heard.verdicts], log

    first, log = verdicts()
    assert "WARNING" not in log
    kept = the_one(folder)
    used = kept.stat().st_mtime_ns
    again, log = verdicts()
    assert (again, "WARNING" in log, kept.stat().st_mtime_ns > used) == (first, False, True)
    forged(kept, os.urandom(100_000))
    again, log = verdicts()
    assert again == first
    assert "a graph that was compiled before is of no use" in log
    assert heatline("check", line).returncode == 0
