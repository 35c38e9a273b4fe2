"""The cache of compiled graphs: a line starts whatever the folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.edge.bundle import Bundle, VerifiedEngine, open_verified_engine
from heatline.edge.bundle.verified_engine import MOST_CACHED
from heatline.edge.inference import infer
from tests.edge.lines import running, small_frames, write_line, write_pictures
from tests.small_bundle import bundle_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


def open_engine(bundle: Bundle, folder: Path | None, **settings: Any) -> VerifiedEngine:
    return open_verified_engine(bundle, cache=folder, **{"threads": 1, **settings})


def open_and_close(bundle: Bundle, folder: Path | None, **settings: Any) -> None:
    open_engine(bundle, folder, **settings).engine.close()


def from_cache(opened: VerifiedEngine) -> bool:
    return bool(opened.engine._compiled.get_property("LOADED_FROM_CACHE"))  # type: ignore[attr-defined]


@pytest.fixture
def stored(bundle: Bundle, folder: Path) -> Path:
    """The file of a graph that was compiled and stored."""
    open_and_close(bundle, folder)
    (found,) = folder.iterdir()
    return found


def test_a_graph_is_compiled_once_and_answers_the_same_from_then_on(
    bundle: Bundle, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = bundle.golden().tiles
    engines = [open_engine(bundle, folder) for _ in range(3)]
    assert [from_cache(engine) for engine in engines] == [False, True, True]
    uncached = open_engine(bundle, None)
    expected = infer(uncached.engine, tiles)
    for cached in engines:
        for came, known in zip(infer(cached.engine, tiles), expected, strict=True):
            np.testing.assert_array_equal(came, known)
        assert (cached.differences, cached.engine.precision, cached.fell_back) == (uncached.differences, "f32", None)
    assert caplog.records == []


def test_each_bundle_precision_and_batch_has_its_own_graph(tmp_path: Path, folder: Path) -> None:
    both = bundle_in(tmp_path / "both", ("f32", "int8"))
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=99.0)  # the same graph, another weight
    for again in (False, True):
        for bundle, options in (
            (both, {}),
            (both, {"precision": "int8"}),
            (other, {"precision": "int8"}),
            (both, {"batch": 2}),
        ):
            opened = open_engine(bundle, folder, **options)
            assert (opened.fell_back, from_cache(opened)) == (None, again)
            opened.engine.close()


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:200],
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        lambda data: bytes(len(data)),
        lambda data: b"\xa5" * 300 + data[300:],
        flip,
    ],
    ids=["empty", "head", "half", "half-zero", "zeros", "odd-head", "bit"],
)
def test_a_damaged_graph_does_not_keep_a_line_from_starting(
    bundle: Bundle, folder: Path, stored: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A power cut leaves such files."""
    data = damage(stored.read_bytes())
    stored.unlink()
    stored.write_bytes(data)
    for _ in range(2):
        opened = open_engine(bundle, folder)
        assert (opened.fell_back, max(opened.differences.values()) < 1e-4) == (None, True)
        opened.engine.close()


def test_a_graph_whose_golden_tiles_fail_is_compiled_again_without_the_cache(
    tmp_path: Path, bundle: Bundle, folder: Path, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    open_and_close(bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=99.0), other, precision="int8")
    stored.unlink()
    max(other.iterdir(), key=lambda path: path.stat().st_mtime_ns).rename(stored)
    found = open_engine(bundle, folder)
    assert (from_cache(found), max(found.differences.values()) < 1e-4) == (False, True)
    assert "which is emptied: on this machine openvino in f32 is off by" in caplog.text
    assert list(folder.iterdir()) == []


def test_the_oldest_graphs_are_deleted(bundle: Bundle, folder: Path) -> None:
    for number in range(MOST_CACHED + 3):
        (folder / f"{number}.blob").touch()
    open_and_close(bundle, folder)
    assert len(list(folder.iterdir())) == MOST_CACHED


def test_a_line_starts_although_its_cache_folder_cannot_be_used(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nowhere"):
        assert open_engine(bundle, tmp_path / name).fell_back is None


def test_the_service_caches_its_graph_in_the_folder_of_systemd(
    tmp_path: Path, bundle: Bundle, folder: Path, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    graphs = []
    for _ in range(2):
        with running(line, address, env={"CACHE_DIRECTORY": str(folder)}) as run:
            assert [event.verdict for event in run.until_stopped().verdicts] == ["GOOD", "GOOD", "DEFECT"]
            assert run.exit_code() == 0
            assert "WARNING" not in run.process.log()
        graphs.append([(path.name, path.stat().st_mtime_ns) for path in folder.iterdir()])
    assert (len(graphs[0]), graphs[0]) == (1, graphs[1])
