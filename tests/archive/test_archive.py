"""What is inspected of an archive, what a worker writes of it, and two bundles' verdicts compared, without Ray."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.archive.run import Job, Worker, key_of, read_ahead
from heatline.archive.source import Listed, list_source
from heatline.archive.verdicts import (
    PICTURES,
    SCHEMA,
    Row,
    compare,
    count_verdicts,
    file_of,
    read_plan,
    read_verdicts,
)
from heatline.edge import __version__
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.errors import ConfigError, InputError
from tests.archive.archives import inspected_here, table_of, write_archive
from tests.command import heatline, sentence_of, successful
from tests.golden import assert_golden
from tests.small_bundle import bundle_in, copy_of, edit_manifest


def test_a_folder_gives_its_pictures_sorted_with_their_folders_as_groups(tmp_path: Path) -> None:
    for name in ("a.png", "b.txt", "left/2.JPG", "left/deep/3.bmp", ".hidden/5.png", "left/[x].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "right").symlink_to("left/deep")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "left" / "above").symlink_to("..")
    listed = [(".hidden/5.png", ".hidden"), ("a.png", "."), ("left/2.JPG", "left"), ("left/[x].png", "left"),
              ("left/deep/3.bmp", "left/deep"), ("lost.png", "."), ("right/3.bmp", "right")]  # fmt: skip
    assert list_source(tmp_path) == [Listed(*each) for each in listed]
    (tmp_path / "list.txt").write_text(f"left/1.png\n\nleft/../left/1.png\n{tmp_path}/a.png\nmissing.png\nleft/1.png\n")
    absolute = Listed(f"{tmp_path}/a.png", str(tmp_path))
    assert list_source(tmp_path / "list.txt") == [absolute, Listed("left/1.png", "left"), Listed("missing.png", ".")]
    table = pa.table({"picture": ["b.png", "a.png"], "group": ["one", None], "label": ["good", None], "more": [1, 2]})
    pq.write_table(table, tmp_path / "table.parquet")
    assert list_source(tmp_path / "table.parquet") == [Listed("a.png", ".", None), Listed("b.png", "one", "good")]


@given(st.text(st.characters(exclude_characters="/\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_any_name_survives_in_a_list(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.getbasetemp() / "names.txt"
    file.write_text(f"\ufefffolder/{name}.png\r\n/x/{name}.png\n", encoding="utf-8", newline="")
    assert [each.picture for each in list_source(file)] == [f"/x/{name}.png", f"folder/{name}.png"]


def test_what_cannot_be_a_source_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, table in (
        ("column", {"file": ["a.png"]}),
        ("label", {"picture": ["a.png"], "label": ["bad"]}),
        ("both", {"picture": ["a.png", "./a.png"], "label": ["good", "defective"]}),
    ):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    (tmp_path / "latin").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "latin") + b"/caf\xe9.png")).write_bytes(b"x")
    for name, words in (
        ("none", "does not exist"),
        ("empty", "has no picture"),
        ("notes.md", "is a file of another kind"),
        ("latin.txt", "is not UTF-8, which Parquet needs; rename it, or convert the list"),
        ("latin", "not UTF-8, which Parquet needs; rename it"),
        ("broken.parquet", "cannot be read ("),
        ("column.parquet", "has the columns file; expected"),
        ("label.parquet", "has the picture 'a.png' with the label 'bad'"),
        ("both.parquet", "has ./a.png twice, as good and as defective"),
    ):
        assert words in sentence_of(InputError, list_source, tmp_path / name)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures, and files and folders that are none, by their names in a list."""
    folder = write_archive(tmp_path_factory.mktemp("source"), 9)
    for name, data in (("cut.png", b"\x89PNG half of it"), ("empty.jpg", b""), ("text.bmp", b"no picture")):
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.*")]
    (folder / "list.txt").write_text("\n".join([*names, "missing.png", "left", names[0]]))
    return folder / "list.txt"


@pytest.fixture(scope="module")
def dest(tmp_path_factory: pytest.TempPathFactory, source: Path, bundle: Bundle) -> Path:
    """The verdicts of `source`."""
    folder = tmp_path_factory.mktemp("dest") / "judged"
    inspected_here([bundle], source, folder)
    return folder


def test_each_picture_has_a_row_with_its_verdict(tmp_path: Path, source: Path, dest: Path, bundle: Bundle) -> None:
    rows = table_of(dest)
    assert [row["number"] for row in rows] == list(range(15))
    readable = [row for row in rows if (source.parent / row["picture"]).is_file()]
    files = [source.parent / row["picture"] for row in readable]
    assert heatline("inspect", bundle.path, *files, "--out", tmp_path / "out").returncode == 9, "the damaged files"
    events = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    for row, event in zip(readable, events, strict=True):
        assert [row[key] for key in ("verdict", "reason", "score", "precision")] == [
            event[key] for key in ("verdict", "reason", "frame_score", "precision")
        ]
        assert row["detail"] == (event["detail"] and event["detail"].replace(f"{source.parent}/", ""))
        own, theirs = (
            [[region[key] for key in ("box_xyxy", "peak_xy", "area_px", "score")] for region in each["regions"]]
            for each in (row, event)
        )
        assert (own, [row["height"], row["width"]]) == (theirs, event["frame_hw"] or [None, None])
        assert (row["score_threshold"], row["evidence_threshold"]) == (-1.0, 20.0)
        assert row["bundle"] == key_of(event["bundle"]["digest"], "openvino", "f32")
    unread = {row["picture"]: row for row in rows if row not in readable}
    assert set(unread) == {"missing.png", "folder.png", "left"}
    for name, row in unread.items():
        assert (row["verdict"], row["reason"], row["content"]) == ("NO_VERDICT", "failed.unreadable", None)
        assert f"{name} cannot be read (" in row["detail"]
    assert Counter(row["verdict"] for row in rows) == {"GOOD": 6, "DEFECT": 3, "NO_VERDICT": 6}
    files_of_dest = f"{dest}/verdicts/*/*.parquet"
    counted = duckdb.sql(f"SELECT verdict, count(*) FROM read_parquet('{files_of_dest}') GROUP BY ALL").fetchall()
    assert dict(counted) == Counter(row["verdict"] for row in rows)


def test_two_bundles_judge_as_one_after_the_other(tmp_path: Path, source: Path, dest: Path, bundle: Bundle) -> None:
    other = bundle_in(tmp_path / "other", ["f32"])
    both = inspected_here([bundle, other], source, tmp_path / "both")
    one_by_one = table_of(dest) + inspected_here([other], source, tmp_path / "b")
    assert both == sorted(one_by_one, key=lambda row: (row["bundle"], row["number"]))
    loaded: list[int] = []
    for number, item in enumerate(read_ahead(lambda item: loaded.append(item) or item, range(20), depth=2)):
        assert item == number
        assert len(loaded) <= number + 3, "it loads no more than a few items ahead"


def test_a_worker_with_another_version_or_without_source_refuses(tmp_path: Path, source: Path) -> None:
    job = Job(__version__, source.parent, "openvino", "f32", {})
    with pytest.raises(ConfigError, match=r"has 0\.0\.1; install the same version on all nodes"):
        Worker(job._replace(heatline="0.0.1"))
    with pytest.raises(InputError, match="SOURCE must be a place that every node reaches by the same name"):
        Worker(job._replace(folder=tmp_path / "gone"))


MEASURE = """
import sys
from pathlib import Path
from heatline.edge.bundle import open_bundle
from tests.archive.archives import plan_of, worker_of

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


@pytest.mark.parametrize(("few", "many"), [(10, 120), pytest.param(50, 500, marks=pytest.mark.long)])
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
    assert decoded_mb > 3 * MOST_GROWTH_MB, "a worker that held the pictures would be noticed"
    assert float(measured.stdout) < MOST_GROWTH_MB


def test_a_damaged_file_of_dest_is_named(tmp_path: Path, dest: Path, bundle: Bundle) -> None:
    copy, key = tmp_path / "copy", key_of(bundle.digest, "openvino", "f32")
    shutil.copytree(dest, copy)
    plan = read_plan(copy)
    assert count_verdicts(read_verdicts(plan, key)) == {"good": 6, "defect": 3, "no_verdict": 6}
    file, other = copy / file_of(key, 1), (copy / file_of(key, 0)).read_bytes()
    whole = file.read_bytes()
    named = r"part-000001\.parquet does not hold the verdicts .*; delete it, and call"
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + b"\xff" * 6 + whole[206:], other):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=named):
            read_verdicts(plan, key)
    file.unlink()
    with pytest.raises(InputError, match=named):
        read_verdicts(plan, key)
    (copy / PICTURES).write_bytes((copy / PICTURES).read_bytes()[:100])
    with pytest.raises(InputError, match=r"pictures\.parquet is not heatline's \(.*\); name another --out"):
        read_plan(plan.dest)


MARGINS = st.none() | st.integers(-8, 8).map(lambda quarters: quarters / 4)
CONTENTS = st.sampled_from(["c0", "c0", "c0", "c1", None])
SEEN = st.tuples(st.sampled_from([None, "good", "defective"]), MARGINS, CONTENTS, MARGINS, CONTENTS)
"""A picture's label, then by the old and the new bundle its margin to the threshold, None for no verdict, and its
content.
"""


def verdicts_of(labels: Any, margins: Any, contents: Any, threshold: float) -> pa.Table:
    """The verdicts of a bundle, as `read_verdicts` returns them."""
    rows = [
        {
            "picture": f"{number}.png", "group": ".", "label": label, "content": content,
            "verdict": "NO_VERDICT" if margin is None else "DEFECT" if margin >= 0 else "GOOD",
            "score": None if margin is None else margin + threshold, "score_threshold": threshold,
        }
        for number, (label, margin, content) in enumerate(zip(labels, margins, contents, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, pa.schema([field for field in SCHEMA if field.name in rows[0]]))


def rank(flip: tuple[Row, Row]) -> tuple[int, float]:
    """Escapes first, then others, then what is right now; of each, the farthest first, unknown distances last."""
    was, now = flip
    right = {"defective": "DEFECT", "good": "GOOD"}.get(now["label"]) == now["verdict"]
    escaped = (now["label"], now["verdict"]) == ("defective", "GOOD")
    if None in (was["score"], now["score"]):
        return 1 + right - escaped, 1
    margins = [each["score"] - each["score_threshold"] for each in flip]
    return 1 + right - escaped, -abs(margins[1] - margins[0])


@given(st.lists(SEEN, min_size=1, max_size=30))
def test_counts_and_order_agree_with_a_loop_over_the_pictures(pictures: list[Any]) -> None:
    labels, old_margins, old_contents, new_margins, new_contents = zip(*pictures, strict=True)
    old = verdicts_of(labels, old_margins, old_contents, 1.5)
    new = verdicts_of(labels, new_margins, new_contents, -0.25)
    pairs = list(zip(old.to_pylist(), new.to_pylist(), strict=True))
    same = [(was, now) for was, now in pairs if was["content"] == now["content"]]
    flips = [(was, now) for was, now in same if was["verdict"] != now["verdict"]]
    kinds = Counter((was["verdict"], now["verdict"]) for was, now in flips)
    expected: dict[str, Any] = {
        "compared": len(same), "other_files": len(pairs) - len(same), "flips": len(flips),
        "defect_to_good": kinds["DEFECT", "GOOD"], "good_to_defect": kinds["GOOD", "DEFECT"],
        "lost": sum(now["verdict"] == "NO_VERDICT" for _, now in flips),
        "gained": sum(was["verdict"] == "NO_VERDICT" for was, _ in flips),
    }  # fmt: skip
    for name, label, wrong in (("escapes", "defective", "GOOD"), ("false_rejects", "good", "DEFECT")):
        verdicts = [(was["verdict"], now["verdict"]) for was, now in same if now["label"] == label]
        judged = [(was == wrong, now == wrong) for was, now in verdicts if {was, now} != {"NO_VERDICT"}]
        expected[name] = None if not judged else {
            "pictures": len(judged), "old": sum(was for was, _ in judged), "new": sum(now for _, now in judged),
            "added": judged.count((False, True)), "removed": judged.count((True, False)),
        }  # fmt: skip
    changes, worst = compare(old, new, 5)
    assert changes == expected
    assert [row["picture"] for row in worst] == [now["picture"] for _, now in sorted(flips, key=rank)[:5]]


def test_the_command_prints_what_changes_and_json_has_the_same_numbers(tmp_path: Path, bundle: Bundle) -> None:
    source, dest = tmp_path / "pictures.parquet", tmp_path / "dest"
    write_archive(tmp_path / "source", 6)
    paths = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "source").rglob("*.png"))
    labels = ["good" if int(Path(path).stem) % 3 else "defective" for path in paths]
    pq.write_table(pa.table({"picture": paths, "label": labels}), source)
    folder = copy_of(bundle, tmp_path / "new.bundle")  # which never gives DEFECT
    new = open_bundle(edit_manifest(folder, lambda m: m["calibration"].update(score_threshold=1000.0)))
    inspected_here([new, bundle], source, dest)
    command = "archive", "inspect", new.path, source, "--out", dest, "--against", bundle.path
    result = successful(heatline(*command, env={"PATH": ""}))  # without Ray
    assert_golden("archive_inspect", result.stdout, folder=tmp_path, bundle=bundle.path)
    found = json.loads(heatline(*command, "--json", env={"PATH": ""}).stdout)
    assert {row["label"] for row in found["worst"]} == {"defective"}
    assert found["against"] == {
        "compared": 6, "other_files": 0, "flips": 2, "defect_to_good": 2, "good_to_defect": 0, "lost": 0, "gained": 0,
        "escapes": {"pictures": 2, "old": 0, "new": 2, "added": 2, "removed": 0},
        "false_rejects": {"pictures": 4, "old": 0, "new": 0, "added": 0, "removed": 0},
    }  # fmt: skip
