"""The bundle's folder is deleted or overwritten under a running line: what it loaded is what it goes on with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge.lines import RunningLine, assert_every_frame_has_its_event, running, write_line, write_pictures
from tests.small_bundle import dark_square, white_frame

REAL_BUNDLE = Path(__file__).parents[2] / "examples/drawn_boards/bundle"
"""Its weights are some MB: what an engine maps into memory, and reads when it needs it."""


def delete(bundle: Path) -> None:
    shutil.rmtree(bundle)


def overwrite_in_place(bundle: Path) -> None:
    """The files stay the same files, and hold nothing but zeros."""
    for file in bundle.iterdir():
        size = file.stat().st_size
        with file.open("r+b") as stream:
            stream.write(bytes(size))


def cut_off(bundle: Path) -> None:
    """As the beginning of a copy over it does."""
    for file in bundle.iterdir():
        with file.open("r+b") as stream:
            stream.truncate(0)


@pytest.mark.parametrize(
    ("engine", "damage"),
    [
        ("openvino", overwrite_in_place),
        pytest.param("openvino", cut_off, marks=pytest.mark.long),
        pytest.param("openvino", delete, marks=pytest.mark.long),
        pytest.param("onnxruntime", overwrite_in_place, marks=pytest.mark.long),
        pytest.param("onnxruntime", cut_off, marks=pytest.mark.long),
        pytest.param("onnxruntime", delete, marks=pytest.mark.long),
    ],
)
def test_a_bundle_that_is_damaged_while_a_line_runs_changes_no_verdict(
    tmp_path: Path, address: str, engine: str, damage: Callable[[Path], None]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(REAL_BUNDLE, bundle)
    grey = white_frame((224, 224)) // 2
    write_pictures(tmp_path / "frames", {"1.png": grey, "2.png": dark_square(grey, 40, 60), "3.png": grey // 2})
    tables = f'heatmaps = "never"\n\n[engine]\nkind = "{engine}"\nthreads = 1'
    line = write_line(tmp_path, bundle, address, {"top": 'path = "frames"\nloop = true\nrate_fps = 30'}, tables)
    with running(line, address) as run:
        before = scores(run)
        damage(bundle)
        assert scores(run) == before
        assert scores(run) == before
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    assert heard.last.ledger["top"].failed == {}


def scores(run: RunningLine) -> dict[str | None, tuple[str, float | None]]:
    """What is said of each picture, over a round of all and some more."""
    events = [run.until_inspected() for _ in range(9)]
    said: dict[str | None, tuple[str, float | None]] = {
        event.source: (event.verdict, event.frame_score) for event in events
    }
    assert [said[event.source] for event in events] == [(event.verdict, event.frame_score) for event in events]
    assert len(said) == 3
    return said
