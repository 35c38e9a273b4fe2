"""`heatline bench seams`: what slides come to, and where that is kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench.seams
from bench.commands.common import SHIPPED_BUNDLE
from bench.commands.seams import seams as command
from bench.report.write import make_report
from bench.seams_rows import AtBoth, Slide, SlidesInAll, summarise


def test_slides_are_summed_up_and_kept_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, never = Slide("short", 40, 2, 8.0, 1.0, 5.0, 0.25), Slide("short", 40, 2, 90.0, -6.0, -4.0, 1.0)
    assert summarise([seen, never]) == SlidesInAll(
        peak_off_px_worst=90.0, never_seen=1, logit_change_median=3.0, logit_change_worst=4.0, logit_lowest=-6.0,
        missed_share=0.625,
    )  # fmt: skip

    def slides(_bundle: object, count: int, _seed: int) -> Iterator[AtBoth]:
        yield from [AtBoth(at_bundle_overlap=never, at_defect_overlap=seen)] * count

    monkeypatch.setattr(bench.seams, "slide_defects", slides)
    out = tmp_path / "seams.json"
    arguments = [str(SHIPPED_BUNDLE), "--count", "3", "--out", str(out), "--json"]
    told = CliRunner().invoke(command, arguments, catch_exceptions=False)
    kept = json.loads(out.read_text())
    assert kept == json.loads(told.stdout)
    assert (kept["bench"], kept["defects"], len(kept["slides"])) == ("seams", 3, 3)
    assert "| peak off px worst | 90.0 | 8.00 |" in make_report([out]).tables
