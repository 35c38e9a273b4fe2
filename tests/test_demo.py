"""The shipped bundle, and the demo around it."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import pytest

from bench.seams import slide_defects
from bench.seams_rows import AtBoth, Slide, summarise
from edge.bundle import check_golden, open_bundle
from edge.inference import EngineKind, open_engine

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "examples" / "drawn_boards" / "bundle"
MAP_CELL_PX = 16


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_the_shipped_bundle_is_whole_and_works_here(kind: EngineKind) -> None:
    bundle = open_bundle(BUNDLE)
    differences = check_golden(bundle.golden(), open_engine(kind, bundle.path, 224), bundle.manifest)
    assert max(differences.values()) <= 1e-4


def test_the_shipped_bundle_is_small_and_was_taught_on_drawn_boards() -> None:
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 12_000_000
    provenance = open_bundle(BUNDLE).manifest.provenance
    assert provenance["data"]["data"].startswith("boards")
    assert provenance["data"]["truth"] == "masks"
    assert b"stack_trace" not in (BUNDLE / "model.onnx").read_bytes()
    assert "efficientnet-lite0" in provenance["weights"]["source"]


@pytest.mark.long
def test_the_peak_of_a_defect_that_slides_across_a_seam_moves_with_it() -> None:
    """Few defects and every 6th pixel; test-slow takes more defects and every pixel."""
    assert_peaks_follow(slide_defects(open_bundle(BUNDLE), 2, seed=7, step_px=6))


@pytest.mark.long
def test_the_peak_of_a_defect_that_slides_across_a_seam_moves_with_it_pixel_by_pixel() -> None:
    assert_peaks_follow(slide_defects(open_bundle(BUNDLE), 12, seed=7))


def assert_peaks_follow(found: Iterable[AtBoth]) -> None:
    slides: list[Slide] = [slide for both in found for slide in (both.at_bundle_overlap, both.at_defect_overlap)]
    assert {slide.overlap_px for slide in slides} > {2}
    seen = [slide for slide in slides if slide.missed_share < 1]
    assert len(seen) >= 0.8 * len(slides)  # what the network never sees has no peak to follow
    assert summarise(seen).peak_off_px_worst <= 2 * MAP_CELL_PX


@pytest.mark.long
def test_the_demo_keeps_its_promises_and_writes_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    demo = [sys.executable, str(ROOT / "examples" / "drawn_boards" / "demo.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == 5
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 24
    assert page.count("data:image/jpeg;base64,") == 3 * 24
    assert not re.search(r"(src|href)=(?!['\"]?data:)", page)
    assert "Frame ledger" in page


@pytest.mark.long
def test_the_demo_fails_where_a_promise_is_broken(tmp_path: Path) -> None:
    """With a mask moved away from its defects, what was found is no longer where it should be."""
    out = tmp_path / "out"
    demo = [sys.executable, str(ROOT / "examples" / "drawn_boards" / "demo.py"), "--out", str(out)]
    assert subprocess.run(demo, capture_output=True, timeout=300).returncode == 0
    for mask in (out / "boards" / "masks").iterdir():
        flip(mask)
    done = subprocess.run(demo, capture_output=True, text=True, timeout=300)
    assert done.returncode == 13
    assert "BROKEN" in done.stdout
    assert "not every promise was kept" in done.stderr


def flip(mask: Path) -> None:
    cv2.imwrite(str(mask), cv2.flip(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), -1))
