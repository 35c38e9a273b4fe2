"""The report over several days: days that were reviewed more completely do not count for more."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from heatline.edge.calibration.statistics import interval
from heatline.edge.monitor import report as module
from heatline.edge.monitor.report import JournalTotals, report
from heatline.edge.monitor.store import EvidenceStore
from tests.edge.evidences import DAY_NS, NOON_NS, mark, picture, writer


def test_for_all_each_day_counts_by_its_frames_not_by_its_reviews(tmp_path: Path) -> None:
    days = {
        "2026-11-28": Counter(GOOD=900, DEFECT=100),  # 10 reviewed, none is a false alarm
        "2026-11-29": Counter(GOOD=990, DEFECT=10),  # all reviewed, all are false alarms
        "2026-11-30": Counter(GOOD=500, DEFECT=500),  # none reviewed, so it is left out
        "2026-12-01": Counter(GOOD=1000),
    }
    with writer(tmp_path) as into:
        for number in range(20):
            one = picture(number, at_ns=NOON_NS + DAY_NS * (number // 10) + number)
            into.write(one)
            into.add_marks([mark(one, "false_alarm" if number >= 10 else "right", seq=number + 1)], "j1", number + 1)
    totals = JournalTotals()
    totals.since_at_ns = NOON_NS
    totals.counts = {(day, "top"): counts for day, counts in days.items()}  # type: ignore[misc]
    rows, total = report(EvidenceStore(tmp_path), totals)
    shares = [row["false_reject"] and row["false_reject"].share for row in rows]
    assert shares == [0, pytest.approx(10 / 1000), None, None]
    assert total["false_reject"] is not None
    assert total["false_reject"].share == pytest.approx(10 / 3000)
    assert 0 <= total["false_reject"].low < 10 / 3000
    assert 10 / 3000 < total["false_reject"].high < 0.02


def test_the_interval_of_several_days_holds_the_true_share_in_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "interval", cache(interval))
    rng = np.random.default_rng(0)
    strata = [(100, 30, 0.05), (40, 40, 0.3), (10, 5, 0.9)]  # DEFECTs, reviewed ones, true share of false alarms
    true = sum(defects * share for defects, _, share in strata) / 3000
    held = 0
    for _ in range(400):
        found = module._false_reject(
            Counter(
                frames=1000,
                defects=defects,
                covered_reviewed_defects=reviewed,
                covered_false_alarms=int(rng.binomial(reviewed, share)),
            )
            for defects, reviewed, share in strata
        )
        assert found is not None
        held += found.low <= true <= found.high
    assert held >= 0.95 * 400
