"""The shipped bundle, and the demo around it."""

import functools
import importlib
import os
import re
from pathlib import Path

import cv2
import pytest

from edge.bundle import check_golden, open_bundle
from edge.inference import EngineKind, open_engine
from tests.sliding_defects import slide_defects

DEMO = Path(__file__).parents[1] / "examples" / "drawn_boards"
BUNDLE = DEMO / "bundle"
MAP_CELL_PX = 8


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_the_shipped_bundle_is_whole_and_works_here(kind: EngineKind) -> None:
    bundle = open_bundle(BUNDLE)
    differences = check_golden(bundle.golden(), open_engine(kind, bundle.path, 224), bundle.manifest)
    assert max(differences.values()) <= 1e-4


def test_the_shipped_bundle_is_small_and_was_trained_on_drawn_boards() -> None:
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 12_000_000
    provenance = open_bundle(BUNDLE).manifest.provenance
    assert provenance["data"]["data"].startswith("boards")
    assert provenance["data"]["truth"] == "masks"
    assert b"stack_trace" not in (BUNDLE / "model.onnx").read_bytes()
    assert "efficientnet-lite0" in provenance["weights"]["source"]


@pytest.mark.parametrize(("defects", "step_px"), [(1, 24), pytest.param(12, 1, marks=pytest.mark.long)])
def test_the_peak_of_a_defect_that_slides_across_a_seam_moves_with_it(defects: int, step_px: int) -> None:
    slides = list(slide_defects(open_bundle(BUNDLE), defects, seed=7, step_px=step_px))
    assert {slide.overlap_px for slide in slides} > {2}
    seen = [slide for slide in slides if slide.missed_share < 1]
    assert len(seen) >= 0.8 * len(slides)  # what the network never sees has no peak to follow
    assert max(slide.peak_off_px for slide in seen) <= 2 * MAP_CELL_PX


@pytest.mark.parametrize(
    ("boards", "size_hw"), [(5, (560, 800)), pytest.param(24, (1250, 1600), marks=pytest.mark.long)]
)
def test_the_demo_keeps_its_promises_and_says_where_one_is_broken(
    boards: int,
    size_hw: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line runs once; what it found is judged again by masks that lie elsewhere."""
    monkeypatch.syspath_prepend(DEMO)
    demo = importlib.import_module("demo")
    monkeypatch.setattr(demo, "BOARDS", boards)
    if size_hw != (1250, 1600):  # which the bundle takes for another product
        monkeypatch.setattr(demo, "LINE", f"{demo.LINE}\n[thresholds]\ncheck_plausibility = false\n")
    monkeypatch.setattr(demo, "write_boards", functools.partial(demo.write_boards, size_hw=size_hw))
    monkeypatch.setattr(demo, "inspect", functools.cache(demo.inspect))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # another process takes as long to start as two boards to draw
    monkeypatch.setattr("sys.argv", ["demo.py", "--out", str(tmp_path)])
    demo.main()
    said = capsys.readouterr().out
    assert (said.count("kept "), said.count("BROKEN")) == (5, 0)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == boards
    assert page.count("data:image/jpeg;base64,") == 3 * boards
    assert not re.search(r"(src|href)=(?!['\"]?data:)", page)
    assert "Frame ledger" in page

    for mask in (tmp_path / "boards" / "masks").iterdir():
        cv2.imwrite(str(mask), cv2.flip(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), -1))
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 13
    said, complaint = capsys.readouterr()
    assert "BROKEN" in said
    assert "not every promise was kept" in complaint
