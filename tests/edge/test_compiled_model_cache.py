"""Compiled graphs that are kept: nothing is taken but what was kept, and whatever is there, lines start."""

import hashlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from edge.bundle import Bundle, VerifiedEngine, open_verified_engine
from edge.bundle.compiled_model_cache import KEPT, MARK, MOST_KEPT, TRIED, CompiledModelCache
from edge.inference import infer
from edge.inference.devices import the_core
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


def verified(bundle: Bundle, folder: Path | None, **settings: int) -> VerifiedEngine:
    return open_verified_engine(bundle, cache=folder, **{"threads": 1, **settings})


def opened_and_closed(bundle: Bundle, folder: Path, **settings: int) -> None:
    verified(bundle, folder, **settings).engine.close()


def the_one(folder: Path) -> Path:
    (found,) = folder.iterdir()
    assert found.suffix == KEPT
    return found


@pytest.fixture
def kept(bundle: Bundle, folder: Path, compiled: list[int]) -> Path:
    """The file of a graph that was compiled, verified and kept."""
    opened_and_closed(bundle, folder)
    compiled.clear()
    return the_one(folder)


def test_a_graph_is_compiled_once_and_answers_the_same_from_then_on(
    bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tiles = bundle.golden().tiles
    engines = [verified(bundle, folder) for _ in range(3)]
    assert len(compiled) == 1
    without = verified(bundle, None)
    expected = infer(without.engine, tiles)
    for one in engines:
        for came, known in zip(infer(one.engine, tiles), expected, strict=True):
            np.testing.assert_array_equal(came, known)
        assert (one.differences, one.engine.precision, one.fell_back) == (without.differences, "f32", None)
    assert the_one(folder).stat().st_mode & 0o777 == 0o600
    assert caplog.records == []


def test_each_bundle_precision_and_setting_has_its_own(tmp_path: Path, folder: Path, compiled: list[int]) -> None:
    both = bundle_in(tmp_path / "both", ("f32", "int8"))
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=100.0)
    one: dict[str, Any] = {"threads": 1}
    for _ in range(2):
        for bundle in (both, other):
            for how in (one, one | {"precision": "int8"}):
                assert open_verified_engine(bundle, cache=folder, **how).fell_back is None
        for how in (one | {"batch": 2}, {"threads": 2}, {"threads": 2, "streams": 1}):
            opened_and_closed(both, folder, **how)
    assert len(compiled) == len(list(folder.iterdir())) == 7


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def forged(kept: Path, graph: bytes) -> bytes:
    """What somebody could leave there who knows how it is done."""
    return MARK + hashlib.sha256(kept.stem.encode() + graph).digest() + graph


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda kept: b"", "it is damaged"),
        (lambda kept: kept.read_bytes()[:-1], "it is damaged"),
        (lambda kept: kept.read_bytes()[: len(MARK) + 5], "it is damaged"),
        (lambda kept: kept.read_bytes() + b"x", "it is damaged"),
        (lambda kept: flip(kept.read_bytes()), "it is damaged"),
        (lambda kept: b"y" + kept.read_bytes()[1:], "it is damaged"),
        (lambda kept: forged(kept.with_stem("another"), kept.read_bytes()[len(MARK) + 32 :]), "it is damaged"),
        (lambda kept: forged(kept, b""), "OpenVINO cannot use a graph that was compiled before"),
        (lambda kept: forged(kept, b"no graph"), "OpenVINO cannot use a graph that was compiled before"),
        (lambda kept: forged(kept, b"RR_UPCVO" + bytes(500)), "OpenVINO cannot use a graph that was compiled before"),
    ],
    ids=["empty", "byte-less", "mark", "byte-more", "bit", "no-mark", "another's", "none", "no-graph", "odd-graph"],
)
def test_one_that_is_damaged_is_compiled_again_loudly_and_kept_again(
    bundle: Bundle,
    folder: Path,
    kept: Path,
    compiled: list[int],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], bytes],
    words: str,
) -> None:
    kept.write_bytes(spoil(kept))
    opened_and_closed(bundle, folder)
    said = [(record.levelno, words in record.getMessage()) for record in caplog.records]
    assert (said[0], len(compiled)) == ((logging.WARNING, True), 1)
    opened_and_closed(bundle, folder)
    assert (len(caplog.records), len(compiled)) == (len(said), 1)


def test_one_that_answers_otherwise_fails_its_golden_tiles_and_is_compiled_again(
    tmp_path: Path, bundle: Bundle, folder: Path, kept: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=300.0)
    core = the_core()
    model = core.read_model(other.path / "model_int8.xml")
    model.reshape({"tiles": [1, 224, 224, 3]})
    graph = bytes(core.compile_model(model, "CPU", {"NUM_STREAMS": 1}).export_model().getvalue())
    kept.write_bytes(forged(kept, graph))
    compiled.clear()
    found = verified(bundle, folder)
    assert (len(compiled), max(found.differences.values()) < 1e-4) == (1, True)
    assert "of no use: on this machine openvino in f32 is off by" in caplog.text


def a_link(kept: Path) -> None:
    kept.rename(kept.parent.parent / "elsewhere")
    kept.symlink_to(kept.parent.parent / "elsewhere")


def test_one_that_others_could_have_written_is_not_read(
    bundle: Bundle, folder: Path, kept: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    ways: list[tuple[Callable[[Path], object], str]] = [
        (lambda kept: kept.chmod(0o622), "others can write it"),
        (a_link, "it is a symbolic link"),
        (lambda kept: kept.parent.chmod(0o777), "others can write it"),
    ]
    for how, words in ways:
        compiled.clear()
        caplog.clear()
        how(kept)
        opened_and_closed(bundle, folder)
        assert len(compiled) == 1
        assert words in caplog.text


def test_one_that_brought_the_process_down_is_not_tried_again(
    bundle: Bundle, folder: Path, kept: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edge.bundle.verified_engine.check_golden", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            verified(bundle, folder)
    assert [path.suffix for path in folder.iterdir()] == [TRIED]
    opened_and_closed(bundle, folder)
    assert (len(compiled), the_one(folder)) == (1, kept)
    assert "did not come through" in caplog.text


def test_those_that_were_not_used_for_longest_go(folder: Path) -> None:
    graphs = CompiledModelCache(folder, "digest")
    for number in range(MOST_KEPT):
        graphs.keep(f"{number}", lambda number=number: bytes([number]))
    oldest, *others = files = sorted(folder.iterdir())
    for age, path in enumerate(files):
        os.utime(path, ns=(age, age))
    (folder / f"half{TRIED}").touch()
    graphs.keep("one more", lambda: b"one more")
    there = {path for path in folder.iterdir() if path.suffix == KEPT}
    assert (oldest in there, set(others) <= there, len(there)) == (False, True, MOST_KEPT)
    assert CompiledModelCache(folder, "digest").take("one more") == b"one more"


def test_a_folder_that_cannot_be_used_keeps_no_line_from_starting(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nowhere"):
        assert verified(bundle, tmp_path / name).fell_back is None
    assert sum("cannot be kept in" in record.getMessage() for record in caplog.records) == 2


def test_the_service_keeps_its_graph_where_systemd_says_and_starts_whatever_becomes_of_it(
    tmp_path: Path, bundle: Bundle, folder: Path, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    logs = []
    for _ in range(2):
        with running(line, address, env={"CACHE_DIRECTORY": str(folder)}) as run:
            assert [event.verdict for event in run.until_stopped().verdicts] == ["GOOD", "GOOD", "DEFECT"]
            assert run.exit_code() == 0
            logs.append(run.process.log())
        the_one(folder).write_bytes(forged(the_one(folder), os.urandom(1000)))
    assert "WARNING" not in logs[0]
    assert "a graph that was compiled before is of no use" in logs[1], "it was read, and the line started all the same"
