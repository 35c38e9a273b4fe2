"""The cache of compiled graphs: only what was stored is loaded, and a line starts whatever the folder holds."""

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
from edge.bundle.compiled_model_cache import MARK, MOST_STORED, STORED, TRIED, CompiledModelCache
from edge.inference import infer
from edge.inference.devices import shared_core
from tests.edge.lines import running, small_frames, write_line, write_pictures
from tests.small_bundle import bundle_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with one entry for each graph that OpenVINO compiled."""
    count: list[int] = []
    compile_model = ov.Core.compile_model

    def count_and_compile(*arguments: object, **keys: object) -> ov.CompiledModel:
        count.append(1)
        return compile_model(*arguments, **keys)

    monkeypatch.setattr(ov.Core, "compile_model", count_and_compile)
    return count


def open_engine(bundle: Bundle, folder: Path | None, **settings: int) -> VerifiedEngine:
    return open_verified_engine(bundle, cache=folder, **{"threads": 1, **settings})


def open_and_close(bundle: Bundle, folder: Path, **settings: int) -> None:
    open_engine(bundle, folder, **settings).engine.close()


def only_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    assert found.suffix == STORED
    return found


@pytest.fixture
def stored(bundle: Bundle, folder: Path, compiled: list[int]) -> Path:
    """The file of a graph that was compiled, verified and stored."""
    open_and_close(bundle, folder)
    compiled.clear()
    return only_file(folder)


def test_a_graph_is_compiled_once_and_answers_the_same_from_then_on(
    bundle: Bundle, folder: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tiles = bundle.golden().tiles
    engines = [open_engine(bundle, folder) for _ in range(3)]
    assert len(compiled) == 1
    uncached = open_engine(bundle, None)
    expected = infer(uncached.engine, tiles)
    for cached in engines:
        for came, known in zip(infer(cached.engine, tiles), expected, strict=True):
            np.testing.assert_array_equal(came, known)
        assert (cached.differences, cached.engine.precision, cached.fell_back) == (uncached.differences, "f32", None)
    assert only_file(folder).stat().st_mode & 0o777 == 0o600
    assert caplog.records == []


def test_each_bundle_precision_and_setting_has_its_own_graph(tmp_path: Path, folder: Path, compiled: list[int]) -> None:
    both = bundle_in(tmp_path / "both", ("f32", "int8"))
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=100.0)
    one: dict[str, Any] = {"threads": 1}
    for _ in range(2):
        for bundle in (both, other):
            for options in (one, one | {"precision": "int8"}):
                assert open_verified_engine(bundle, cache=folder, **options).fell_back is None
        for options in (one | {"batch": 2}, {"threads": 2}, {"threads": 2, "streams": 1}):
            open_and_close(both, folder, **options)
    assert len(compiled) == len(list(folder.iterdir())) == 7


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def forge(stored: Path, graph: bytes) -> bytes:
    """The bytes of a file with a correct digest that another program could write."""
    return MARK + hashlib.sha256(stored.stem.encode() + graph).digest() + graph


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: b"", "it is damaged"),
        (lambda path: path.read_bytes()[:-1], "it is damaged"),
        (lambda path: path.read_bytes()[: len(MARK) + 5], "it is damaged"),
        (lambda path: path.read_bytes() + b"x", "it is damaged"),
        (lambda path: flip(path.read_bytes()), "it is damaged"),
        (lambda path: b"y" + path.read_bytes()[1:], "it is damaged"),
        (lambda path: forge(path.with_stem("another"), path.read_bytes()[len(MARK) + 32 :]), "it is damaged"),
        (lambda path: forge(path, b""), "OpenVINO cannot use a graph that was compiled before"),
        (lambda path: forge(path, b"no graph"), "OpenVINO cannot use a graph that was compiled before"),
        (lambda path: forge(path, b"RR_UPCVO" + bytes(500)), "OpenVINO cannot use a graph that was compiled before"),
    ],
    ids=["empty", "byte-less", "mark", "byte-more", "bit", "no-mark", "another's", "none", "no-graph", "odd-graph"],
)
def test_a_damaged_graph_is_compiled_again_with_a_warning_and_stored_again(
    bundle: Bundle,
    folder: Path,
    stored: Path,
    compiled: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], bytes],
    message: str,
) -> None:
    stored.write_bytes(damage(stored))
    open_and_close(bundle, folder)
    logged = [(record.levelno, message in record.getMessage()) for record in caplog.records]
    assert (logged[0], len(compiled)) == ((logging.WARNING, True), 1)
    open_and_close(bundle, folder)
    assert (len(caplog.records), len(compiled)) == (len(logged), 1)


def test_a_cached_graph_with_other_answers_fails_its_golden_tiles_and_is_compiled_again(
    tmp_path: Path, bundle: Bundle, folder: Path, stored: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=300.0)
    core = shared_core()
    model = core.read_model(other.path / "model_int8.xml")
    model.reshape({"tiles": [1, 224, 224, 3]})
    graph = bytes(core.compile_model(model, "CPU", {"NUM_STREAMS": 1}).export_model().getvalue())
    stored.write_bytes(forge(stored, graph))
    compiled.clear()
    found = open_engine(bundle, folder)
    assert (len(compiled), max(found.differences.values()) < 1e-4) == (1, True)
    assert "cannot be used: on this machine openvino in f32 is off by" in caplog.text


def replace_by_link(stored: Path) -> None:
    stored.rename(stored.parent.parent / "elsewhere")
    stored.symlink_to(stored.parent.parent / "elsewhere")


def test_a_graph_that_others_could_have_written_is_not_read(
    bundle: Bundle, folder: Path, stored: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[tuple[Callable[[Path], object], str]] = [
        (lambda path: path.chmod(0o622), "others can write it"),
        (replace_by_link, "it is a symbolic link"),
        (lambda path: path.parent.chmod(0o777), "others can write it"),
    ]
    for change, message in changes:
        compiled.clear()
        caplog.clear()
        change(stored)
        open_and_close(bundle, folder)
        assert len(compiled) == 1
        assert message in caplog.text


def test_a_graph_that_ended_the_process_is_not_tried_again(
    bundle: Bundle, folder: Path, stored: Path, compiled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edge.bundle.verified_engine.check_golden", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            open_engine(bundle, folder)
    assert [path.suffix for path in folder.iterdir()] == [TRIED]
    open_and_close(bundle, folder)
    assert (len(compiled), only_file(folder)) == (1, stored)
    assert "failed when it was tried before" in caplog.text


def test_the_least_recently_used_graphs_are_deleted(folder: Path) -> None:
    graphs = CompiledModelCache(folder, "digest")
    for number in range(MOST_STORED):
        graphs.store(f"{number}", lambda number=number: bytes([number]))
    oldest, *others = files = sorted(folder.iterdir())
    for age, path in enumerate(files):
        os.utime(path, ns=(age, age))
    (folder / f"half{TRIED}").touch()
    graphs.store("one more", lambda: b"one more")
    remaining = {path for path in folder.iterdir() if path.suffix == STORED}
    assert (oldest in remaining, set(others) <= remaining, len(remaining)) == (False, True, MOST_STORED)
    assert CompiledModelCache(folder, "digest").load("one more") == b"one more"


def test_a_line_starts_although_its_cache_folder_cannot_be_used(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nowhere"):
        assert open_engine(bundle, tmp_path / name).fell_back is None
    assert sum("cannot be stored in" in record.getMessage() for record in caplog.records) == 2


def test_the_service_caches_its_graph_in_the_folder_of_systemd_and_starts_if_it_is_damaged(
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
        only_file(folder).write_bytes(forge(only_file(folder), os.urandom(1000)))
    assert "WARNING" not in logs[0]
    assert "a compiled graph from the cache cannot be used" in logs[1], (
        "the line started although the graph was damaged"
    )
