"""What a worker writes: the verdicts of `heatline inspect`, a row for each picture, whatever happens to the worker."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pandas
import pyarrow.dataset as ds
import pytest

from heatline.edge import __version__
from heatline.edge.archive import run
from heatline.edge.archive.run import Job, Worker, key_of, read_ahead
from heatline.edge.archive.verdicts import PICTURES, count_verdicts, file_of, read_plan, read_verdicts
from heatline.edge.bundle import Bundle
from heatline.edge.errors import ConfigError, InputError
from tests.command import heatline
from tests.edge.archive.archives import inspected_here, table_of, write_archive
from tests.small_bundle import bundle_in

DAMAGED = {"cut.png": b"\x89PNG half of it", "empty.jpg": b"", "text.bmp": b"no picture"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures, and three files that are none."""
    folder = write_archive(tmp_path_factory.mktemp("source"), 9)
    for name, data in DAMAGED.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def dest(tmp_path_factory: pytest.TempPathFactory, source: Path, bundle: Bundle) -> Path:
    """The verdicts of `source`."""
    folder = tmp_path_factory.mktemp("dest") / "judged"
    inspected_here([bundle], source, folder)
    return folder


def test_verdicts_scores_and_regions_are_those_of_heatline_inspect(
    tmp_path: Path, source: Path, dest: Path, bundle: Bundle
) -> None:
    rows = table_of(dest)
    files = [source / row["picture"] for row in rows]
    result = heatline("inspect", bundle.path, *files, "--out", tmp_path / "out")
    assert result.returncode == 9, "the damaged files"
    events = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert len(rows) == len(events) == 12
    for row, event in zip(rows, events, strict=True):
        assert row["verdict"] == event["verdict"]
        assert row["reason"] == event["reason"]
        assert row["detail"] == (event["detail"] and event["detail"].replace(f"{source}/", ""))
        assert row["score"] == event["frame_score"]
        assert [(r["box_xyxy"], r["peak_xy"], r["area_px"], r["score"]) for r in row["regions"]] == [
            (r["box_xyxy"], r["peak_xy"], r["area_px"], r["score"]) for r in event["regions"]
        ]
        assert [row["height"], row["width"]] == (event["frame_hw"] or [None, None])
        assert (row["score_threshold"], row["evidence_threshold"]) == (-1.0, 20.0)
        assert row["precision"] == event["precision"]
        assert row["bundle"] == key_of(event["bundle"]["digest"], "openvino", "f32")
    assert {row["verdict"] for row in rows} == {"GOOD", "DEFECT", "NO_VERDICT"}


def test_each_picture_has_a_row_also_one_that_cannot_be_read(tmp_path: Path, bundle: Bundle) -> None:
    write_archive(tmp_path, 2)
    (tmp_path / "folder.png").mkdir()
    names = ["left/0000.png", "missing.png", "right/0001.png", "folder.png", "left"]
    (tmp_path / "list.txt").write_text("\n".join([*names, names[0]]))
    rows = {row["picture"]: row for row in inspected_here([bundle], tmp_path / "list.txt", tmp_path / "dest")}
    assert sorted(rows) == sorted(names)
    assert [row["number"] for row in rows.values()] == list(range(5))
    for name in ("missing.png", "folder.png", "left"):
        row = rows[name]
        assert (row["verdict"], row["reason"], row["content"]) == ("NO_VERDICT", "failed.unreadable", None)
        assert f"{name} cannot be read (" in row["detail"]
        assert (row["score"], row["width"], row["regions"]) == (None, None, [])
    assert rows["left/0000.png"]["verdict"] == "DEFECT"
    assert len(rows["left/0000.png"]["content"]) == 16


def test_two_bundles_judge_a_picture_that_is_decoded_once(
    tmp_path: Path, source: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bundle_in(tmp_path / "other", ["f32"])
    decoded: list[str] = []
    decode = run.decode_image
    monkeypatch.setattr(run, "decode_image", lambda name, data: decoded.append(name) or decode(name, data))
    both = inspected_here([bundle, other], source, tmp_path / "both")
    assert len(decoded) == len(set(decoded)) == 12
    one_by_one = inspected_here([bundle], source, tmp_path / "a") + inspected_here([other], source, tmp_path / "b")
    assert both == sorted(one_by_one, key=lambda row: (row["bundle"], row["number"]))


def test_pandas_duckdb_and_pyarrow_read_the_verdicts_as_they_are(dest: Path, bundle: Bundle) -> None:
    rows = table_of(dest)
    folder = dest / "verdicts"
    frame = pandas.read_parquet(folder).sort_values("number")
    assert frame["picture"].tolist() == [row["picture"] for row in rows]
    assert frame["bundle"].astype(str).unique().tolist() == [key_of(bundle.digest, "openvino", "f32")]
    assert [len(regions) for regions in frame["regions"]] == [len(row["regions"]) for row in rows]
    with duckdb.connect() as database:
        counted = database.execute(
            f"SELECT verdict, count(*), max(score), bundle FROM read_parquet('{folder}/*/*.parquet') GROUP BY ALL"
        ).fetchall()
        boxes = database.execute(
            "SELECT number, region.box_xyxy FROM (SELECT number, unnest(regions) AS region "
            f"FROM read_parquet('{folder}/*/*.parquet')) ORDER BY number"
        ).fetchall()
    assert {verdict: count for verdict, count, _, _ in counted} == frame["verdict"].value_counts().to_dict()
    assert [(number, list(box)) for number, box in boxes] == [
        (row["number"], region["box_xyxy"]) for row in rows for region in row["regions"]
    ]
    defects = ds.dataset(folder, partitioning="hive").to_table(filter=ds.field("verdict") == "DEFECT")
    assert defects["number"].to_pylist() == [row["number"] for row in rows if row["verdict"] == "DEFECT"]


def test_a_worker_with_another_version_or_without_source_refuses(tmp_path: Path, source: Path) -> None:
    job = Job(__version__, source, "openvino", "f32", {})
    with pytest.raises(ConfigError, match="install the same version on all nodes"):
        Worker(job._replace(heatline="0.0.1"))
    with pytest.raises(InputError, match="SOURCE must be a place that every node reaches by the same name"):
        Worker(job._replace(folder=tmp_path / "gone"))


def test_reading_ahead_keeps_the_order_and_loads_no_more_than_a_few_items() -> None:
    loaded: list[int] = []
    for number, item in enumerate(read_ahead(lambda item: loaded.append(item) or item, range(20), depth=2)):
        assert item == number
        assert len(loaded) <= number + 3


MEASURE = """
import sys
from pathlib import Path
from heatline.edge.bundle import open_bundle
from tests.edge.archive.archives import plan_of, worker_of

def peak_mb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

bundle, (source, dest), (few, many) = open_bundle(Path(sys.argv[1])), map(Path, sys.argv[2:4]), map(int, sys.argv[4:])
plan = plan_of(source, dest, few)
here = worker_of([bundle], source)
here.inspect(plan.rows_of(0), [bundle.digest])
before = peak_mb()
for part in range(1, many // few):
    here.inspect(plan.rows_of(part), [bundle.digest])
print(peak_mb() - before)
"""
MOST_GROWTH_MB = 30
"""Ten times as many pictures may cost this much more memory: what allocators keep, and not the pictures."""


@pytest.mark.parametrize(("few", "many"), [(20, 200), pytest.param(50, 500, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path, bundle: Bundle, few: int, many: int) -> None:
    first = write_archive(tmp_path / "source", 1, (500, 700)) / "left" / "0000.png"
    for number in range(1, many):
        os.link(first, first.with_name(f"{number:04d}.png"))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, bundle.path, tmp_path / "source", tmp_path / "dest", str(few), str(many)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    decoded_mb = (many - few) * 500 * 700 * 3 / 2**20
    assert decoded_mb > 5 * MOST_GROWTH_MB, "a worker that held the pictures would be noticed"
    assert float(measured.stdout) < MOST_GROWTH_MB


# DEST.


def test_a_damaged_file_of_dest_is_named(tmp_path: Path, dest: Path, bundle: Bundle) -> None:
    copy, key = tmp_path / "copy", key_of(bundle.digest, "openvino", "f32")
    shutil.copytree(dest, copy)
    plan = read_plan(copy)
    assert plan is not None
    found = Counter(row["verdict"].lower() for row in table_of(dest))
    assert count_verdicts(read_verdicts(plan, key)) == found
    file = copy / file_of(key, 1)
    whole = file.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:200] + b"\xff" * 6 + whole[206:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"part-000001\.parquet does not hold the verdicts .*; delete it"):
            read_verdicts(plan, key)
    (copy / PICTURES).write_bytes((copy / PICTURES).read_bytes()[:100])
    with pytest.raises(InputError, match=r"pictures\.parquet is not heatline's \(.*\); name another --out"):
        read_plan(plan.dest)
