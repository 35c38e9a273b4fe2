"""Precisions: valid manifests, the precision that an engine really uses, and the fallback to f32."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine
from heatline.edge.errors import BundleError, ConfigError, EngineError, PrecisionError
from heatline.edge.inference import Precision, infer, open_engine
from tests.command import complaint, heatline
from tests.edge.lines import notify_socket, running, small_frames, write_line, write_pictures
from tests.small_bundle import (
    GAIN,
    INT8_GRAPH,
    LEFT_OUT,
    TILE,
    TOLERANCES,
    bundle_in,
    copy_of,
    edit_manifest,
    golden_tiles,
    graph_with,
    int8_of_gain,
    put,
    refusal,
    to_openvino,
)

TILES = golden_tiles()
WIDE = {"COLUMNS": "400"}
FRAMES = {"top": 'path = "frames"'}
INT8 = '[engine]\nprecision = "int8"\nthreads = 1'


@pytest.fixture(scope="session")
def all_three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with f32, bf16 and an int8 that differs by 1 % of the scale, which is allowed."""
    return bundle_in(tmp_path_factory.mktemp("precisions") / "all")


@pytest.fixture(scope="session")
def far_off(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose int8 answers with twice the evidence, and whose bf16 has the tolerance of f32."""
    path = tmp_path_factory.mktemp("precisions") / "far"
    return bundle_in(path, int8_gain=2 * GAIN, tolerances={**TOLERANCES, "bf16": 1e-6})


@pytest.fixture(scope="session")
def f32_alone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose bf16 and int8 did not pass the gate."""
    return bundle_in(tmp_path_factory.mktemp("precisions") / "f32", ["f32"])


@pytest.fixture
def folder(all_three: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle with all three precisions, which the test damages."""
    return copy_of(all_three, tmp_path / "b")


def open_precision(bundle: Bundle, precision: Precision) -> Any:
    return open_verified_engine(bundle, "openvino", precision, threads=1)


# Manifests.


def test_a_bundle_states_its_precisions_and_why_others_are_missing(all_three: Bundle, f32_alone: Bundle) -> None:
    graphs = {each: all_three.manifest.graph_for(each) for each in all_three.manifest.precisions}
    assert graphs == {"f32": "model_f32.xml", "bf16": "model_f32.xml", "int8": INT8_GRAPH}
    assert f32_alone.manifest.precisions == ("f32",)
    assert f32_alone.manifest.why_without("int8") == LEFT_OUT
    with pytest.raises(BundleError, match=re.escape(f"has no bf16 ({LEFT_OUT}); choose f32, or export the bundle")):
        open_precision(f32_alone, "bf16")


def gate_of(manifest: dict[str, Any], precision: str) -> dict[str, Any]:
    gate: dict[str, Any] = manifest["map_gate"]["precisions"][precision]
    return gate


HOSTILE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["map_gate"]["precisions"].pop("f32"), "leaves out f32; every bundle has it"),
    (lambda m: gate_of(m, "f32").update(graph=None, reason="no need"), "leaves out f32; every bundle has it"),
    (lambda m: gate_of(m, "bf16").update(graph="model_bf16.xml"), "needs model_bf16.xml and lists no such file"),
    (lambda m: m["files"].pop("model_int8.bin"), "needs model_int8.bin and lists no such file"),
    (lambda m: m["tolerances"].pop("int8"), "has f32, bf16, int8, and tolerances for bf16, f32"),
    (lambda m: gate_of(m, "int8").update(graph=None, reason="slow"), "has f32, bf16, and tolerances for"),
    (lambda m: m["map_gate"]["precisions"].pop("int8"), "has f32, bf16, and tolerances for"),
    (lambda m: m.update(map_gate=None), "has f32, and tolerances for"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_manifest_with_an_incomplete_precision_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    assert message in refusal(edit_manifest(folder, change))


# The precision that an engine really uses.


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_precision_that_passes_is_used_without_a_warning(
    all_three: Bundle, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    verified = open_precision(all_three, precision)
    assert (verified.engine.precision, verified.fell_back, verified.computes_in) == (precision, None, precision)
    assert max(verified.differences.values()) <= all_three.manifest.tolerances[precision]
    assert (verified.differences["map"] > 0.005) == (precision == "int8"), "int8 is its own graph, f32 the model's"
    if precision == "f32":
        assert max(verified.differences.values()) < 1e-5, "also on a processor that likes bf16"
    assert not caplog.records


def test_bf16_is_really_bf16_or_refused(all_three: Bundle) -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat")))
    try:
        engine = open_engine("openvino", all_three.path, TILE, precision="bf16", threads=1)
    except EngineError as error:
        assert not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split())
        assert "this processor has no bf16" in str(error)  # noqa: PT017  (either way is right)
        return
    assert engine.precision == "bf16"
    off = TILES.differences(*infer(engine, TILES.tiles))
    assert 1e-4 < off["map"] < 0.02, "numbers were rounded to 8 bits"


_get_property = openvino.Core.get_property


def _without_bf16(core: openvino.Core, device: str, name: str) -> Any:
    found = _get_property(core, device, name)
    return [each for each in found if each != "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else found


def test_a_processor_that_would_emulate_bf16_uses_f32(
    all_three: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", _without_bf16)
    with pytest.raises(PrecisionError, match="this processor has no bf16, OpenVINO would compute in f32 or emulate"):
        open_engine("openvino", all_three.path, TILE, precision="bf16", threads=1)
    verified = open_precision(all_three, "bf16")
    assert (verified.engine.precision, verified.computes_in) == ("f32", "f32 instead of bf16")
    assert "f32 is used instead of bf16: this processor has no bf16" in caplog.text
    assert open_precision(all_three, "int8").engine.precision == "int8", "whose unquantised parts are f32 anyway"


def test_each_use_of_an_allowed_precision_that_fails_the_gate_warns(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_bundle(
        edit_manifest(folder, lambda m: gate_of(m, "int8").update(reason="3 of 40 verdicts differ; at most 0.5 % may"))
    )
    open_precision(opened, "f32")
    assert not caplog.records
    open_precision(opened, "int8")
    assert (
        f"int8 is in {folder} although it fails the map gate: 3 of 40 verdicts differ; at most 0.5 % may" in caplog.text
    )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_onnx_runtime_has_only_f32_and_does_not_fall_back(all_three: Bundle, precision: Precision) -> None:
    with pytest.raises(EngineError, match=f"onnxruntime cannot compute in {precision}, only in f32"):
        open_verified_engine(all_three, "onnxruntime", precision)


# Fallback.


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_outside_its_tolerance_f32_is_used_with_a_warning(
    far_off: Bundle, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    verified = open_precision(far_off, precision)
    assert (verified.engine.precision, verified.requested) == ("f32", precision)
    assert max(verified.differences.values()) <= 1e-4, "they are f32's"
    assert TILES.differences(*infer(verified.engine, TILES.tiles)) == verified.differences
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, verified.fell_back)
    assert verified.fell_back.startswith(f"f32 is used instead of {precision}: ")
    assert "\n" not in verified.fell_back
    if precision == "int8":
        assert "int8 is off by 1.0e+00 of the scale in logit" in verified.fell_back
        assert "allowed is 5.0e-02; int8 must not be used here" in verified.fell_back


def test_a_broken_graph_falls_back_and_a_graph_of_another_shape_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verified = open_precision(open_bundle(put(folder, {INT8_GRAPH: b"no graph"})), "int8")
    assert verified.engine.precision == "f32"
    assert f"OpenVINO cannot use {folder / INT8_GRAPH}" in caplog.text
    coarse = {name.replace("f32", "int8"): data for name, data in to_openvino(graph_with(map_cells=7)).items()}
    with pytest.raises(BundleError, match=r"maps of shape \(4, 7, 7\)"):
        open_precision(open_bundle(put(folder, coarse)), "int8")


def test_a_bundle_is_refused_if_f32_exceeds_its_tolerance_too(far_off: Bundle, tmp_path: Path) -> None:
    wrong = {name.replace("int8", "f32"): data for name, data in int8_of_gain(3 * GAIN).items()}
    opened = open_bundle(put(copy_of(far_off, tmp_path / "b"), wrong))
    for precision in ("f32", "int8"):
        with pytest.raises(BundleError, match=r"in f32 is off by .*; this bundle must not be used here"):
            open_precision(opened, precision)  # type: ignore[arg-type]


def test_a_graph_that_the_manifest_does_not_name_is_not_used(f32_alone: Bundle, folder: Path, tmp_path: Path) -> None:
    without = copy_of(f32_alone, tmp_path / "int8")
    for name, data in int8_of_gain(2 * GAIN).items():
        (without / name).write_bytes(data)
        (folder / name.replace("int8", "bf16")).write_bytes(data)
    with pytest.raises(BundleError, match="has no int8"):
        open_precision(open_bundle(without), "int8")
    assert max(open_precision(open_bundle(folder), "bf16").differences.values()) < 0.02


# Commands.


def reported(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    result = heatline(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
    return report, result.stderr


def shown(*arguments: str | Path) -> str:
    return heatline(*arguments, env=WIDE).stdout


def test_every_command_reports_its_precision(all_three: Bundle, far_off: Bundle, tmp_path: Path, address: str) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(1))
    for used, came in ((all_three, "int8"), (far_off, "f32")):
        line = write_line(tmp_path, used.path, address, FRAMES, INT8)
        report, complaints = reported("check", line)
        assert report["precision"] == came
        if came == "int8":
            assert (report["fell_back"], complaints) == (None, "")
        else:
            assert report["fell_back"].startswith("f32 is used instead of int8: ")
            assert f"WARNING heatline.edge.bundle.verified_engine: {report['fell_back']}" in complaints
            assert "can be run in f32 instead of int8" in shown("check", line)
        report, _ = reported("bundle", "verify", used.path, "--precision", "int8")
        assert (report["precision"], report["allowed"]) == (came, TOLERANCES[came])  # type: ignore[index]
        assert (report["fell_back"] is None) == (came == "int8")
        event, _ = reported("inspect", used.path, frames, "--precision", "int8", "--out", tmp_path / f"out-{came}")
        assert event["precision"] == came
    verified = shown("bundle", "verify", far_off.path, "--precision", "int8")
    assert "works on this machine in f32 instead of int8" in verified


def test_a_running_line_reports_its_fallback_to_f32(far_off: Bundle, tmp_path: Path, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, far_off.path, address, FRAMES, INT8)
    with notify_socket(tmp_path) as systemd, running(line, address, env=systemd.env) as run:
        systemd.wait_for("READY=1")  # otherwise the socket's queue may be full at the stop
        received = run.until_stopped()
        run.exit_code()
        log = run.process.log()
        status = systemd.rest()[-1]
    assert {event.precision for event in [*received.verdicts, *received.statuses]} == {"f32"}
    assert status == "STATUS=NOT_READY: stopped, 3 events, the line computes in f32 instead of int8"
    assert " by openvino in f32 instead of int8, signed by nobody" in log
    assert "WARNING heatline.edge.bundle.verified_engine: f32 is used instead of int8: " in log


def test_a_line_with_an_unavailable_precision_is_refused(f32_alone: Bundle, tmp_path: Path, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, f32_alone.path, address, FRAMES, INT8)
    for command in ("check", "run"):
        result = heatline(command, line)
        assert result.returncode == BundleError.exit_code
        assert f"has no int8 ({LEFT_OUT})" in complaint(result)
    tables = '[engine]\nkind = "onnxruntime"\nprecision = "int8"'
    result = heatline("check", write_line(tmp_path, f32_alone.path, address, FRAMES, tables))
    assert result.returncode == ConfigError.exit_code
    assert "engine.precision is 'int8', but onnxruntime computes only in f32; set engine.kind" in complaint(result)


def test_show_lists_the_result_for_each_precision(all_three: Bundle, f32_alone: Bundle) -> None:
    text = shown("bundle", "show", all_three.path)
    assert re.search("int8 +shipped as model_int8.xml *\n", text)
    assert "on 40 tiles of validation frames, 12 with a region; flips by the score" in text
    text = shown("bundle", "show", f32_alone.path)
    assert re.search("precisions +f32 *\n", text)
    assert re.search(f"int8 +left out: {LEFT_OUT} *\n", text)


def test_show_works_without_optional_figures(folder: Path) -> None:
    def fewer(manifest: dict[str, Any]) -> None:
        gate_of(manifest, "bf16")["attempts"][0]["agreement"] = []
        for each in gate_of(manifest, "int8")["attempts"][0]["agreement"]:
            each |= {"map_correlation": None, "iou_median": None, "iou_p5": None}

    text = shown("bundle", "show", edit_manifest(folder, fewer))
    assert "shipped as model_f32.xml" in text


def test_a_calibration_records_its_precision_and_retains_the_gate(
    all_three: Bundle, far_off: Bundle, tmp_path: Path
) -> None:
    good = write_pictures(tmp_path / "good", {"a.png": np.full((230, 300, 3), 250, np.uint8)})
    for used, came in ((all_three, "int8"), (far_off, "f32")):
        target = tmp_path / came
        report, complaints = reported("calibrate", used.path, good, "--precision", "int8", "--to", target)
        assert report["precision"] == came
        assert ("f32 is used instead of int8" in complaints) == (came == "f32")
        new, old = open_bundle(target).manifest, used.manifest
        assert (new.map_gate, new.tolerances, new.files) == (old.map_gate, old.tolerances, old.files)
        (record,) = new.provenance["calibrations"]
        assert (record["engine"], record["precision"]) == ("openvino", came)
        assert open_precision(open_bundle(target), "int8").engine.precision == came
