"""Two bundles' verdicts on one archive, compared with pandas; rates, order of flips, files that changed meanwhile."""

import tempfile
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.archive.results import VERDICTS, Change, Comparison, Finding, Summary, read_results
from heatline.edge.calibration.statistics import interval
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


@given(st.lists(PICTURES, min_size=1, max_size=30))
def test_counts_and_order_agree_with_pandas(pictures: list[Made]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = read_results(made_archive(Path(folder), pictures, part_pictures=16), NEW, OLD, worst=5)
        table = pd.read_parquet(Path(folder, "verdicts")).astype({"bundle": str})
    assert results.comparison is not None
    old, new = (table[table.bundle == digest].set_index("number").sort_index() for digest in (OLD, NEW))
    pairs = pd.DataFrame({"group": new.group, "label": new.label, "old": old.verdict, "new": new.verdict})
    pairs["moved"] = (new.score - new.score_threshold) - (old.score - old.score_threshold)
    same = pairs[new.content.fillna("") == old.content.fillna("")]
    flips = same[same.old != same.new]
    for group in [None, *new.group.unique()]:
        figures = results.comparison.figures(group)
        part, changed = (each if group is None else each[each.group == group] for each in (same, flips))
        whole = pairs if group is None else pairs[pairs.group == group]
        assert (figures["pictures"], figures["other_files"]) == (len(whole), len(whole) - len(part))
        counts = {each: dict.fromkeys(VERDICTS, 0) for each in VERDICTS}
        for (was, now), count in part.groupby(["old", "new"]).size().items():
            counts[was][now] = count
        assert figures["transitions"] == counts
        if len(part):
            assert figures["flips"] is not None
            assert (figures["flips"].count, figures["flips"].of) == (len(changed), len(part))
            assert group is None or figures["flips"].interval == interval(len(changed), len(part))
        for paired, label, wrong in (
            (figures["escapes"], "defective", "GOOD"),
            (figures["false_rejects"], "good", "DEFECT"),
        ):
            judged = part[(part.label == label) & ((part.old != "NO_VERDICT") | (part.new != "NO_VERDICT"))]
            assert (paired is None) == judged.empty
            if paired is not None:
                was, now = judged.old == wrong, judged.new == wrong
                assert paired["pictures"] == len(judged)
                found = [rate.count for rate in (paired["old"], paired["new"], paired["added"], paired["removed"])]
                assert found == [was.sum(), now.sum(), (now & ~was).sum(), (was & ~now).sum()]
    escapes = (flips.label == "defective") & (flips.new == "GOOD")
    is_right = ((flips.label == "defective") & (flips.new == "DEFECT")) | (
        (flips.label == "good") & (flips.new == "GOOD")
    )
    order = flips.assign(rank=1 - escapes.astype(int) + is_right.astype(int), far=-flips.moved.abs())
    order = order.sort_values(["rank", "far"], kind="stable", na_position="last")
    assert [change.new.number for change in results.comparison.worst_flips()] == list(order.index[:5])
    margins = (new.score - new.score_threshold).dropna().sort_values(ascending=False, kind="stable")
    assert [finding.number for finding in results.summary.worst()] == list(margins.index[:5])


def finding(verdict: str = "DEFECT", number: int = 0) -> Finding:
    return Finding(number, "a.png", "a", None, "c", verdict, None, None, 1.0, 0.0)  # type: ignore[arg-type]


def test_a_file_that_changed_between_the_runs_is_no_flip(tmp_path: Path) -> None:
    pictures = [
        Made("a", "defective", {OLD: Seen(1.0), NEW: Seen(-1.0)}),
        Made("a", "defective", {OLD: Seen(1.0), NEW: Seen(-1.0, content="c1")}),
        Made("a", "defective", {OLD: UNREADABLE, NEW: Seen(-1.0)}),
        Made("a", "defective", {OLD: UNREADABLE, NEW: UNREADABLE}),
    ]
    comparison = read_results(made_archive(tmp_path, pictures), NEW, OLD).comparison
    assert comparison is not None
    total = comparison.figures(None)
    assert total["flips"] is not None
    assert (total["flips"].count, total["flips"].of, total["other_files"]) == (1, 2, 2)
    assert [change.new.number for change in comparison.worst_flips()] == [0]


def test_the_whole_has_intervals_over_groups_and_few_groups_have_none(tmp_path: Path) -> None:
    flip, stay = Made("", None, {OLD: Seen(1), NEW: Seen(-1)}), Made("", None, {OLD: Seen(1), NEW: Seen(1)})
    few = [Made(f"g{number}", None, each.seen) for number in range(9) for each in (flip, stay)]
    comparison = read_results(made_archive(tmp_path / "few", few), NEW, OLD).comparison
    assert comparison is not None
    assert comparison.figures(None)["flips"] is not None
    assert comparison.figures(None)["flips"].interval is None  # type: ignore[union-attr]
    assert comparison.basis() == "no intervals: a bootstrap needs at least 10 groups, and there are 9"
    mixed = [Made(f"g{number}", None, (flip if number < 5 else stay).seen) for number in range(10) for _ in range(3)]
    comparison = read_results(made_archive(tmp_path / "ten", mixed), NEW, OLD).comparison
    assert comparison is not None
    # Whole groups flip: 2 to 8 of 10 groups, as in tests/train/test_intervals.py, and not the narrower 30 pictures.
    assert comparison.figures(None)["flips"].interval == (pytest.approx(0.2), pytest.approx(0.8))  # type: ignore[union-attr]
    assert comparison.groups_with_flips().interval == interval(5, 10)  # type: ignore[union-attr]


def test_a_part_that_is_missing_or_of_another_plan_is_refused(tmp_path: Path) -> None:
    pictures = [Made("a", None, {OLD: Seen(1), NEW: Seen(1)})] * 5
    plan = made_archive(tmp_path, pictures)
    first, second = (tmp_path / f"verdicts/bundle={NEW}/part-00000{part}.parquet" for part in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"part-000001\.parquet holds other pictures than the plan; delete it"):
        read_results(plan, NEW, OLD)
    second.unlink()
    with pytest.raises(InputError, match=r"part-000001\.parquet is missing; call heatline archive inspect again"):
        read_results(plan, NEW, OLD)


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    def peak(pictures: int) -> int:
        tracemalloc.start()
        summary, comparison = Summary(10), Comparison(10)
        for number in range(pictures):  # every picture is a flip
            old, new = finding("DEFECT", number=number), finding("GOOD", number=number)
            summary.add(new)
            comparison.add(Change(old, new))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(3000) < 1.5 * peak(300)
