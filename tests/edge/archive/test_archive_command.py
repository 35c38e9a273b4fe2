"""What `heatline archive inspect` prints: the answer of a comparison, and how far it is. Nothing here needs Ray."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.cli import archive
from heatline.edge.cli.archive import ArchiveProgress
from heatline.edge.cli.output import progress_bar
from tests.command import heatline
from tests.edge.archive.archives import inspected_here, write_archive
from tests.small_bundle import copy_of, edit_manifest


def other_threshold(bundle: Bundle, folder: Path) -> Bundle:
    """A copy that never gives DEFECT."""

    def change(manifest: dict[str, dict[str, float]]) -> None:
        manifest["calibration"]["score_threshold"] = 1000.0

    return open_bundle(edit_manifest(copy_of(bundle, folder), change))


def test_the_command_prints_what_changes_and_json_has_the_same_numbers(tmp_path: Path, bundle: Bundle) -> None:
    source, dest = tmp_path / "pictures.parquet", tmp_path / "dest"
    write_archive(tmp_path / "source", 6)
    paths = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "source").rglob("*.png"))
    labels = ["defective" if "000" in path and int(Path(path).stem) % 3 == 0 else "good" for path in paths]
    pq.write_table(pa.table({"picture": paths, "label": labels}), source)
    new = other_threshold(bundle, tmp_path / "new.bundle")
    inspected_here([new, bundle], source, dest)
    command = "archive", "inspect", new.path, source, "--out", dest, "--against", bundle.path
    result = heatline(*command, env={"PATH": ""})  # without Ray
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    printed = dict(line.split("  ", 1) for line in lines[1:13])
    assert {name: value.strip() for name, value in printed.items()} == {
        "inspected now": "0 pictures",
        f"darkness 1 ({new.path})": "0 DEFECT, 6 GOOD, 0 NO_VERDICT",
        f"darkness 1 ({bundle.path})": "2 DEFECT, 4 GOOD, 0 NO_VERDICT",
        "compared": "6",
        "other files": "0",
        "flips": "2",
        "defect to good": "2",
        "good to defect": "0",
        "lost": "0",
        "gained": "0",
        "escapes": "2 new, 0 gone; 2 instead of 0 of 2 defective pictures",
        "false rejects": "0 new, 0 gone; 0 instead of 0 of 4 good pictures",
    }
    worst = lines[13:]
    assert len(worst) == 2
    again = heatline(*command, "--json", env={"PATH": ""})
    found = json.loads(again.stdout)
    assert worst == [f"DEFECT to GOOD: {row['picture']}" for row in found["worst"]]
    assert {row["label"] for row in found["worst"]} == {"defective"}
    assert found["against"] == {
        "compared": 6, "other_files": 0, "flips": 2, "defect_to_good": 2, "good_to_defect": 0, "lost": 0, "gained": 0,
        "escapes": {"pictures": 2, "old": 0, "new": 2, "added": 2, "removed": 0},
        "false_rejects": {"pictures": 4, "old": 0, "new": 0, "added": 0, "removed": 0},
    }  # fmt: skip


def test_without_a_terminal_a_line_is_printed_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(archive.time, "monotonic", lambda: now_s)
    shown = ArchiveProgress(progress_bar(hidden=True))
    for second in range(32):
        now_s = float(second)
        shown(2 * second, 100, 1)
    shown(100, 100, 1)
    assert capsys.readouterr().err.splitlines() == [
        "pictures: 0 of 100, 1 without verdict",
        "pictures: 60 of 100, 1 without verdict",
        "pictures: 100 of 100, 1 without verdict",
    ]
