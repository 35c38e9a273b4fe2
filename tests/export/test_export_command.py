"""`heatline export` on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bundle import open_bundle
from heatline.edge.bundle.store import ONNX_GRAPH
from tests.command import heatline, heatline_process
from tests.train.trained import NAMED_SPLIT, SMALL

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["cnn", "vit"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all tests share, or that of a ViT with a discard ratio, whose graph is slow to quantise."""
    if request.param == "cnn":
        return Path(request.getfixturevalue("trained_run"))
    out = tmp_path_factory.mktemp("vit") / "run"
    vit = ["model=vit_tiny_patch16_224", "model.weights=none", "model.discard_ratio=0.9", "model.fusion=max"]
    small = [each for each in SMALL if not each.startswith("model") and "steps" not in each and "every" not in each]
    data = f"data={request.getfixturevalue('blobs')}"
    done = heatline(
        "train", data, f"out={out}", *vit, *small, *NAMED_SPLIT, "recipe.steps=1", "recipe.validate_every=1"
    )
    assert done.returncode == 0, done.stderr
    return out


def test_an_allowed_precision_is_exported_and_others_are_not_tried(run: Path, tmp_path: Path) -> None:
    allowed = ["--precision", "int8", "--allow", "int8", "--allow", "map"]
    done = heatline("export", run, "--to", tmp_path / "b", *allowed, "--json")
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = json.loads(done.stdout)["manifest"]
    gate = manifest["map_gate"]["precisions"]
    assert set(gate) == {"f32", "int8"}
    assert gate["int8"]["graph"] == "model_int8.xml"
    assert (gate["int8"]["reason"] or "") == "; ".join(gate["int8"]["attempts"][-1]["missed"])
    bundle = open_bundle(tmp_path / "b")
    assert set(bundle.manifest.precisions) == {"f32", "int8"}
    shown = " ".join(done.stderr.split())
    for attempt in gate["int8"]["attempts"]:
        assert f"int8, {attempt['how']}: {'; '.join(attempt['missed']) or 'agrees with the model'}" in shown
    assert manifest["map"]["method"] == bundle.manifest.map.method


def test_another_process_writes_the_same_graph_and_reports_its_agreement(trained_run: Path, tmp_path: Path) -> None:
    """Hashes, and with them the order of sets, differ from process to process."""
    reports = [
        export("export", trained_run, "--to", tmp_path / name, "--precision", "f32")
        for name, export in [("here", heatline), ("there", heatline_process)]
    ]
    for done in reports:
        assert done.returncode == 0, done.stderr
        report = " ".join(done.stdout.split())
        assert "largest difference from the trained model on 16 golden tiles" in report
        assert "mean(map) - logit " in report
        assert "compared with the model" in report
        assert "shipped as model_f32.xml" in report
    here, there = ((tmp_path / name / ONNX_GRAPH).read_bytes() for name in ("here", "there"))
    assert here == there
