"""`heatline export` as a user runs it, in processes of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge.bundle import open_bundle
from edge.bundle.store import ONNX_GRAPH
from tests.train.blobs import draw_blobs
from train.config import compose
from train.fit import fit

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with a discard ratio, taught one step on small pictures."""
    folder = tmp_path_factory.mktemp("command")
    data = draw_blobs(folder / "blobs")
    config = compose(
        [
            f"data={data}", f"out={folder / 'run'}", "model=vit_tiny_patch16_224", "model.weights=none",
            "model.discard_ratio=0.9", "model.fusion=max", "tiles.tile_px=64", "recipe.steps=1", "recipe.batch=4",
            "recipe.validate_every=1", "recipe.jitter_px=8", "split.val=[c]", "split.test=[d]",
        ]
    )  # fmt: skip
    return fit(config, say=lambda line: None).folder


def export(run: Path, target: Path, *options: str) -> tuple[str, str]:
    """What it printed, and what it showed meanwhile, without its line breaks."""
    command = [sys.executable, "-m", "edge.cli.main", "export", str(run), "--to", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split()), " ".join(done.stderr.split())


def test_what_is_allowed_is_shipped_and_what_is_not_asked_for_is_not_tried(run: Path, tmp_path: Path) -> None:
    printed, shown = export(run, tmp_path / "b", "--precision", "int8", "--allow", "int8", "--json")
    manifest: dict[str, Any] = json.loads(printed)["manifest"]
    gate = manifest["map_gate"]["precisions"]
    assert set(gate) == {"f32", "int8"}
    assert gate["int8"]["graph"] == "model_int8.xml"
    assert gate["int8"]["reason"] == "; ".join(gate["int8"]["attempts"][-1]["missed"]) != ""
    assert set(open_bundle(tmp_path / "b").manifest.precisions) == {"f32", "int8"}
    for attempt in gate["int8"]["attempts"]:
        assert f"int8, {attempt['how']}: {'; '.join(attempt['missed']) or 'passed'}" in shown
    assert manifest["map"]["method"] == "rollout-max-discard-0.9"


def test_two_processes_write_the_same_graph_and_people_are_told_how_it_agrees(run: Path, tmp_path: Path) -> None:
    reports = [export(run, tmp_path / name, "--precision", "f32")[0] for name in ("a", "b")]
    for report in reports:
        assert "of the scale at most on 16 golden tiles" in report
        assert "held to the model" in report
        assert "shipped as model_f32.xml" in report
    a, b = ((tmp_path / name / ONNX_GRAPH).read_bytes() for name in ("a", "b"))
    assert a == b
