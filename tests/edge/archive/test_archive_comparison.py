"""Two bundles' verdicts on one archive, compared with pandas; the order of flips; files that changed meanwhile."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.archive.verdicts import Plan, compare, count_verdicts, read_verdicts
from heatline.edge.errors import InputError
from tests.edge.archive.made_archives import NEW, OLD, UNREADABLE, Made, Seen, made_archive

MARGINS = st.one_of(st.none(), st.integers(-8, 8).map(lambda quarters: quarters / 4))
SEEN = st.builds(Seen, MARGINS, content=st.sampled_from(["c0", "c0", "c0", "c1", None]))
PICTURES = st.builds(
    lambda group, label, old, new: Made(group, label, {OLD: old, NEW: new}),
    st.sampled_from(["line 1", "line 2", "."]),
    st.sampled_from([None, "good", "defective"]),
    SEEN,
    SEEN,
)


def compared(plan: Plan, worst: int = 5) -> tuple[dict[str, object], list[str]]:
    """Return the counts, and the worst flips by name."""
    changes, flips = compare(read_verdicts(plan, OLD), read_verdicts(plan, NEW), worst)
    return changes, [flip["picture"] for flip in flips]


@given(st.lists(PICTURES, min_size=1, max_size=30))
def test_counts_and_order_agree_with_pandas(pictures: list[Made]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = made_archive(Path(folder), pictures, part_pictures=16)
        changes, worst_flips = compared(plan)
        counts = count_verdicts(read_verdicts(plan, NEW))
        table = pd.read_parquet(Path(folder, "verdicts")).astype({"bundle": str})
    old, new = (table[table.bundle == key].set_index("number").sort_index() for key in (OLD, NEW))
    pairs = pd.DataFrame({"label": new.label, "old": old.verdict, "new": new.verdict, "picture": new.picture})
    pairs["moved"] = (new.score - new.score_threshold) - (old.score - old.score_threshold)
    same = pairs[new.content.fillna("") == old.content.fillna("")]
    flips = same[same.old != same.new]
    assert counts == {name.lower(): (new.verdict == name).sum() for name in ("GOOD", "DEFECT", "NO_VERDICT")}
    kinds = flips.groupby(["old", "new"]).size()
    assert {name: changes[name] for name in ("compared", "other_files", "flips")} == {
        "compared": len(same), "other_files": len(pairs) - len(same), "flips": len(flips)
    }  # fmt: skip
    assert changes["defect_to_good"] == kinds.get(("DEFECT", "GOOD"), 0)
    assert changes["good_to_defect"] == kinds.get(("GOOD", "DEFECT"), 0)
    assert changes["lost"] == (flips.new == "NO_VERDICT").sum()
    assert changes["gained"] == (flips.old == "NO_VERDICT").sum()
    for paired, label, wrong in (
        (changes["escapes"], "defective", "GOOD"),
        (changes["false_rejects"], "good", "DEFECT"),
    ):
        judged = same[(same.label == label) & ((same.old != "NO_VERDICT") | (same.new != "NO_VERDICT"))]
        was, now = judged.old == wrong, judged.new == wrong
        expected = {
            "pictures": len(judged), "old": was.sum(), "new": now.sum(),
            "added": (now & ~was).sum(), "removed": (was & ~now).sum(),
        }  # fmt: skip
        assert paired == (None if judged.empty else expected)
    escapes = (flips.label == "defective") & (flips.new == "GOOD")
    is_right = ((flips.label == "defective") & (flips.new == "DEFECT")) | (
        (flips.label == "good") & (flips.new == "GOOD")
    )
    order = flips.assign(rank=1 - escapes.astype(int) + is_right.astype(int), far=-flips.moved.abs())
    order = order.sort_values(["rank", "far"], kind="stable", na_position="last")
    assert worst_flips == list(order.picture[:5])


def test_a_file_that_changed_between_the_runs_is_no_flip(tmp_path: Path) -> None:
    pictures = [
        Made("a", "defective", {OLD: Seen(1.0), NEW: Seen(-1.0)}),
        Made("a", "defective", {OLD: Seen(1.0), NEW: Seen(-1.0, content="c1")}),
        Made("a", "defective", {OLD: UNREADABLE, NEW: Seen(-1.0)}),
        Made("a", "defective", {OLD: UNREADABLE, NEW: UNREADABLE}),
    ]
    changes, worst = compared(made_archive(tmp_path, pictures))
    assert (changes["flips"], changes["compared"], changes["other_files"]) == (1, 2, 2)
    assert worst == ["a/0.png"]


def test_changes_are_those_of_all_pictures_and_no_label_is_no_zero(tmp_path: Path) -> None:
    pictures = [
        Made("a", None, {OLD: Seen(old), NEW: Seen(new)})
        for old, new in ((1, -1), (1, -1), (-1, 1), (1, None), (None, -1), (None, 1), (None, None), (1, 1))
    ]
    pictures.append(Made("a", "good", {OLD: Seen(1), NEW: Seen(-1, content="c1")}))
    found, _ = compared(made_archive(tmp_path, pictures))
    assert (found["compared"], found["other_files"], found["flips"]) == (8, 1, 6)
    assert (found["defect_to_good"], found["good_to_defect"], found["lost"], found["gained"]) == (2, 1, 1, 2)
    assert (found["escapes"], found["false_rejects"]) == (None, None)


def test_a_part_that_is_missing_or_of_another_plan_is_refused(tmp_path: Path) -> None:
    pictures = [Made("a", None, {OLD: Seen(1), NEW: Seen(1)})] * 5
    plan = made_archive(tmp_path, pictures)
    first, second = (tmp_path / f"verdicts/bundle={NEW}/part-00000{part}.parquet" for part in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"part-000001\.parquet .*it holds other pictures than the plan\); delete it"):
        read_verdicts(plan, NEW)
    second.unlink()
    with pytest.raises(InputError, match=r"part-000001\.parquet .*No such file or directory\); delete it, and call"):
        read_verdicts(plan, NEW)
