"""Precisions: what a manifest may say of them, what is computed in truth, and what happens where one cannot be used."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import SCHEMA, Bundle, Manifest, open_bundle, open_proven_engine
from edge.errors import BundleError, ConfigError, EngineError, PrecisionError
from edge.inference import Precision, infer, open_engine, openvino_engine
from export.openvino_ir import to_openvino
from tests.command import WITHIN_SECONDS, heatline
from tests.edge.lines import notify_socket, running, small_frames, write_line, write_pictures
from tests.edge.test_bundle import copy_of, graph_with, refusal, with_files, with_manifest
from tests.small_bundle import (
    GAIN,
    INT8_GRAPH,
    LEFT_OUT,
    TILE,
    TOLERANCES,
    bundle_in,
    golden_tiles,
    int8_of_gain,
)

TILES = golden_tiles()


@pytest.fixture(scope="session")
def all_three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """f32, bf16 and an int8 that is off by 1 % of the scale, as it may be."""
    return bundle_in(tmp_path_factory.mktemp("precisions") / "all")


@pytest.fixture(scope="session")
def far_off(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its int8 answers with twice the evidence, and its bf16 may be off by no more than its f32."""
    path = tmp_path_factory.mktemp("precisions") / "far"
    return bundle_in(path, int8_gain=2 * GAIN, tolerances={**TOLERANCES, "bf16": 1e-6})


@pytest.fixture(scope="session")
def f32_alone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """bf16 and int8 did not pass the gate."""
    return bundle_in(tmp_path_factory.mktemp("precisions") / "f32", ["f32"])


def asked_for(bundle: Bundle, precision: Precision) -> Any:
    return open_proven_engine(bundle, "openvino", precision, threads=1)


def processor_multiplies_bf16() -> bool:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat")))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


# What a manifest may say.


def test_a_bundle_says_which_precisions_it_has_and_why_not_the_others(all_three: Bundle, f32_alone: Bundle) -> None:
    everything, one = all_three.manifest, f32_alone.manifest
    assert everything.precisions == ("f32", "bf16", "int8")
    assert [everything.graph_for(each) for each in everything.precisions] == [
        "model_f32.xml", "model_f32.xml", INT8_GRAPH
    ]  # fmt: skip
    assert one.precisions == ("f32",)
    assert one.graph_for("int8") is None
    assert one.why_without("int8") == LEFT_OUT


def gate_of(manifest: dict[str, Any], precision: str) -> dict[str, Any]:
    gate: dict[str, Any] = manifest["map_gate"]["precisions"][precision]
    return gate


HOSTILE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["map_gate"]["precisions"].pop("f32"), "leaves out f32; every bundle has it"),
    (lambda m: m["map_gate"].update(precisions={}), "leaves out f32; every bundle has it"),
    (lambda m: gate_of(m, "f32").update(graph=None, reason="no need"), "leaves out f32; every bundle has it"),
    (lambda m: gate_of(m, "f32").update(graph=INT8_GRAPH), "names model_int8.xml as the graph for f32, expected"),
    (lambda m: gate_of(m, "int8").update(graph="model_f32.xml"), "for int8, expected model_int8.xml;"),  # f32, in truth
    (lambda m: gate_of(m, "bf16").update(graph=INT8_GRAPH), "expected model_f32.xml or model_bf16.xml"),
    (lambda m: gate_of(m, "bf16").update(graph="model_bf16.xml"), "lists no model_bf16.xml, which bf16 needs"),
    (lambda m: gate_of(m, "bf16").update(graph="model.onnx"), "names model.onnx as the graph for bf16"),
    (lambda m: gate_of(m, "int8").update(graph="../model_int8.xml"), "matching regex"),  # out of the folder
    (lambda m: gate_of(m, "int8").update(graph=""), "matching regex"),
    (lambda m: m["files"].pop(INT8_GRAPH), "lists no model_int8.xml, which int8 needs"),
    (lambda m: m["files"].pop("model_int8.bin"), "lists no model_int8.bin, which int8 needs"),
    (lambda m: m["tolerances"].pop("int8"), "states no tolerance for int8, which it has"),
    (lambda m: m["tolerances"].pop("bf16"), "states no tolerance for bf16, which it has"),
    (lambda m: m["tolerances"].update(int8=2), "Expected `float` <= 0.5"),  # allows anything
    (lambda m: m["tolerances"].update(fp4=0.1), "Invalid enum value 'fp4'"),
    (lambda m: gate_of(m, "int8").update(graph=None, reason=None), "leaves out int8 and gives no reason"),
    (lambda m: gate_of(m, "int8").update(graph=None, reason=" \n"), "leaves out int8 and gives no reason"),
    (lambda m: gate_of(m, "int8").update(graph=None, reason="slow"), "states a tolerance for int8, which it has not"),
    (lambda m: m["map_gate"]["precisions"].pop("int8"), "states a tolerance for int8, which it has not"),
    (lambda m: m.update(map_gate=None), "states a tolerance for bf16, which it has not"),
    (lambda m: m["map_gate"]["precisions"].update(fp4=gate_of(m, "int8")), "Invalid enum value 'fp4'"),
    (lambda m: m["map_gate"].update(tiles=0), "Expected `int` >= 1"),
    (lambda m: m["map_gate"].update(score_threshold=None), "Expected `float`, got `null`"),
    (lambda m: m["map_gate"].update(passed=True), "unknown field `passed` - at `$.map_gate`"),
    (lambda m: gate_of(m, "int8")["attempts"][0]["agreement"][0].update(flips=-1), "Expected `int` >= 0"),
    (lambda m: gate_of(m, "int8")["attempts"][0]["agreement"][0].update(iou_p5=1.5), "Expected `float` <= 1"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE)
def test_a_manifest_is_refused_whose_precisions_are_not_all_there(
    all_three: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    assert words in refusal(with_manifest(all_three, tmp_path / "b", change))


def test_bundles_of_older_schemas_have_f32_alone(bundle: Bundle, tmp_path: Path) -> None:
    def older(manifest: dict[str, Any]) -> None:
        manifest["schema"] = 2
        manifest["tolerances"]["int8"] = 0.1  # said nothing of what such a bundle has
        del manifest["map_gate"]

    opened = open_bundle(with_manifest(bundle, tmp_path / "b", older))
    assert opened.manifest.precisions == ("f32",)
    assert asked_for(opened, "f32").engine.precision == "f32"
    with pytest.raises(BundleError, match=r"has no int8 \(it was exported in f32 alone\); choose f32, or export"):
        asked_for(opened, "int8")


def test_the_demos_bundle_is_of_an_older_schema_and_loads() -> None:
    opened = open_bundle(Path(__file__).parents[2] / "examples" / "drawn_boards" / "bundle")
    assert opened.manifest.schema < SCHEMA
    assert opened.manifest.precisions == ("f32",)


# What is computed in truth.


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_precision_that_passes_is_used_without_a_word(
    all_three: Bundle, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    proven = asked_for(all_three, precision)
    assert (proven.engine.precision, proven.fell_back, proven.computes_in) == (precision, None, precision)
    assert max(proven.differences.values()) <= all_three.manifest.tolerances[precision]
    assert (proven.differences["map"] > 0.005) == (precision == "int8"), "int8 is its own graph, f32 the model's"
    assert not caplog.records


def test_bf16_is_bf16_in_truth_or_refused(all_three: Bundle) -> None:
    try:
        engine = open_engine("openvino", all_three.path, TILE, precision="bf16", threads=1)
    except EngineError as error:
        assert not processor_multiplies_bf16()
        assert "this processor has no bf16" in str(error)  # noqa: PT017  (either way is right)
        return
    assert engine.precision == "bf16"
    off = TILES.differences(*infer(engine, TILES.tiles))
    assert 1e-4 < off["map"] < 0.02, "numbers were rounded to 8 bits"


def test_an_engine_is_not_called_bf16_where_the_processor_computes_in_f32(
    all_three: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_engine, "_effective_precision", lambda _: "f32")  # as processors without bf16 say
    with pytest.raises(PrecisionError, match="this processor has no bf16, OpenVINO would compute in f32 instead"):
        open_engine("openvino", all_three.path, TILE, precision="bf16", threads=1)
    proven = asked_for(all_three, "bf16")
    assert (proven.engine.precision, proven.computes_in) == ("f32", "f32 instead of bf16")
    assert "f32 is used instead of bf16: this processor has no bf16" in caplog.text
    assert asked_for(all_three, "int8").engine.precision == "int8", "whose unquantised parts are f32 anyway"


def test_what_was_let_in_though_it_fails_the_gate_is_told_whenever_it_is_used(
    all_three: Bundle, tmp_path: Path
) -> None:
    def let_in(manifest: dict[str, Any]) -> None:
        gate_of(manifest, "int8")["reason"] = "3 of 40 verdicts flip"

    folder = with_manifest(all_three, tmp_path / "b", let_in)
    _, complaints = told("bundle", "verify", folder, "--precision", "int8")
    assert "int8 was let into" in complaints
    assert "though it fails the map gate: 3 of 40 verdicts flip" in complaints
    _, complaints = told("bundle", "verify", folder, "--precision", "f32")
    assert "map gate" not in complaints


def test_f32_is_f32_in_truth_on_a_processor_that_likes_bf16(all_three: Bundle) -> None:
    off = TILES.differences(*infer(open_engine("openvino", all_three.path, TILE, threads=1), TILES.tiles))
    assert max(off.values()) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_onnx_runtime_has_f32_alone_and_does_not_fall_back(all_three: Bundle, precision: Precision) -> None:
    words = f"onnxruntime was asked for {precision}, it computes in f32 alone"
    with pytest.raises(EngineError, match=words):
        open_engine("onnxruntime", all_three.path, TILE, precision=precision)
    with pytest.raises(EngineError, match=words):
        open_proven_engine(all_three, "onnxruntime", precision)


# What happens where a precision cannot be used.


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_outside_its_tolerance_f32_is_used_instead_loudly(
    far_off: Bundle, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    proven = asked_for(far_off, precision)
    assert (proven.engine.precision, proven.asked_for) == ("f32", precision)
    assert max(proven.differences.values()) <= 1e-4, "they are f32's"
    assert TILES.differences(*infer(proven.engine, TILES.tiles)) == proven.differences
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, proven.fell_back)
    assert proven.fell_back.startswith(f"f32 is used instead of {precision}: ")
    assert "\n" not in proven.fell_back
    if precision == "int8":
        assert "int8 is off by 1.0e+00 of the scale in logit" in proven.fell_back
        assert "allowed is 5.0e-02; int8 must not be used here" in proven.fell_back


def test_a_graph_that_the_engine_cannot_compile_falls_back_too(
    all_three: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proven = asked_for(open_bundle(with_files(all_three, tmp_path / "b", {INT8_GRAPH: b"no graph"})), "int8")
    assert proven.engine.precision == "f32"
    assert f"OpenVINO cannot use {tmp_path / 'b' / INT8_GRAPH}" in caplog.text


def test_a_graph_of_another_shape_is_no_matter_of_precision_and_refuses_the_bundle(
    all_three: Bundle, tmp_path: Path
) -> None:
    coarse = {name.replace("f32", "int8"): data for name, data in to_openvino(graph_with(map_cells=7)).items()}
    with pytest.raises(BundleError, match=r"maps of shape \(4, 7, 7\)"):
        asked_for(open_bundle(with_files(all_three, tmp_path / "b", coarse)), "int8")


def test_nothing_is_left_to_fall_back_to_where_f32_is_off_too(far_off: Bundle, tmp_path: Path) -> None:
    wrong = {name.replace("int8", "f32"): data for name, data in int8_of_gain(3 * GAIN).items()}
    opened = open_bundle(with_files(far_off, tmp_path / "b", wrong))
    for precision in ("f32", "int8"):
        with pytest.raises(BundleError, match=r"in f32 is off by .*; this bundle must not be used here"):
            asked_for(opened, precision)  # type: ignore[arg-type]


def test_a_precision_that_was_left_out_is_refused_with_the_manifests_reason(f32_alone: Bundle) -> None:
    with pytest.raises(BundleError, match=re.escape(f"has no bf16 ({LEFT_OUT}); choose f32, or export the bundle")):
        asked_for(f32_alone, "bf16")


# What lies in the folder and is not listed.


def test_a_graph_that_the_manifest_does_not_name_is_not_used(
    all_three: Bundle, f32_alone: Bundle, tmp_path: Path
) -> None:
    folder = copy_of(f32_alone, tmp_path / "int8")
    for name, data in int8_of_gain(GAIN).items():
        (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="has no int8"):
        asked_for(open_bundle(folder), "int8")
    folder = copy_of(all_three, tmp_path / "bf16")
    for name, data in int8_of_gain(2 * GAIN).items():
        (folder / name.replace("int8", "bf16")).write_bytes(data)
    assert max(asked_for(open_bundle(folder), "bf16").differences.values()) < 0.02


def test_a_bf16_graph_of_its_own_is_used_where_the_manifest_names_it(all_three: Bundle, tmp_path: Path) -> None:
    def name_it(manifest: dict[str, Any]) -> None:
        gate_of(manifest, "bf16")["graph"] = "model_bf16.xml"
        manifest["tolerances"]["bf16"] = 0.2

    own = {name.replace("int8", "bf16"): data for name, data in int8_of_gain(1.1 * GAIN).items()}
    listed = with_files(all_three, tmp_path / "listed", own)
    opened = open_bundle(with_manifest(Bundle(listed, _manifest(listed), ""), tmp_path / "b", name_it))
    proven = asked_for(opened, "bf16")
    if proven.fell_back is None:  # a processor without bf16
        assert proven.differences["logit"] == pytest.approx(0.1, abs=0.02)


def _manifest(folder: Path) -> Manifest:
    return open_bundle(folder).manifest


# Commands.


def told(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    result = heatline(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
    return report, result.stderr


def engine_in(precision: str) -> str:
    return f'[engine]\nprecision = "{precision}"\nthreads = 1'


@pytest.mark.long
def test_check_says_what_a_line_will_compute_in(
    all_three: Bundle, far_off: Bundle, tmp_path: Path, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(1))
    cameras = {"top": 'path = "frames"'}
    report, complaints = told("check", write_line(tmp_path, all_three.path, address, cameras, engine_in("int8")))
    assert (report["precision"], report["fell_back"], complaints) == ("int8", None, "")
    line = write_line(tmp_path, far_off.path, address, cameras, engine_in("int8"))
    report, complaints = told("check", line)
    assert report["precision"] == "f32"
    assert report["fell_back"].startswith("f32 is used instead of int8: ")
    assert f"WARNING edge.bundle.proven_engine: {report['fell_back']}" in complaints
    shown = heatline("check", line, env={"COLUMNS": "400"}).stdout
    assert "can be run in f32 instead of int8" in shown
    assert report["fell_back"] in shown


@pytest.mark.parametrize("fits", [True, False])
def test_events_name_the_precision_that_was_computed_in(
    all_three: Bundle, far_off: Bundle, tmp_path: Path, address: str, fits: bool
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    used = all_three if fits else far_off
    line = write_line(tmp_path, used.path, address, {"top": 'path = "frames"'}, engine_in("int8"))
    with notify_socket(tmp_path) as systemd, running(line, address, env=systemd.env) as run:
        systemd.wait_for("READY=1")  # or what it says at the end would find the socket's queue full
        heard = run.until_stopped()
        _, log = run.process.communicate(timeout=WITHIN_SECONDS)
        status = systemd.rest()[-1]
    came = "int8" if fits else "f32"
    assert {event.precision for event in heard.verdicts} == {came}
    assert {status.precision for status in heard.statuses} == {came}
    assert status == "STATUS=NOT_READY: stopped, 3 events" + ("" if fits else ", in f32 instead of int8")
    assert f" by openvino in {came if fits else 'f32 instead of int8'}, signed by nobody" in log
    assert ("WARNING edge.bundle.proven_engine: f32 is used instead of int8: " in log) == (not fits)


def test_a_line_is_refused_whose_bundle_left_its_precision_out(f32_alone: Bundle, tmp_path: Path, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, f32_alone.path, address, {"top": 'path = "frames"'}, engine_in("int8"))
    for command in ("check", "run"):
        result = heatline(command, line)
        assert result.returncode == BundleError.exit_code
        assert f"has no int8 ({LEFT_OUT})" in result.stderr


def test_a_line_cannot_ask_onnx_runtime_for_int8(bundle: Bundle, tmp_path: Path, address: str) -> None:
    tables = '[engine]\nkind = "onnxruntime"\nprecision = "int8"'
    result = heatline("check", write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, tables))
    assert result.returncode == ConfigError.exit_code
    assert "engine.precision is 'int8', onnxruntime computes in f32 alone; set engine.kind" in result.stderr


@pytest.mark.long
def test_verify_and_inspect_say_what_they_computed_in(all_three: Bundle, far_off: Bundle, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", small_frames(1))
    for used, came in ((all_three, "int8"), (far_off, "f32")):
        report, _ = told("bundle", "verify", used.path, "--precision", "int8")
        assert (report["precision"], report["allowed"]) == (came, TOLERANCES[came])  # type: ignore[index]
        assert (report["fell_back"] is None) == (came == "int8")
        event, _ = told("inspect", used.path, pictures, "--precision", "int8", "--out", tmp_path / f"out-{came}")
        assert event["precision"] == came
    assert (
        "works on this machine in f32 instead of int8"
        in heatline("bundle", "verify", far_off.path, "--precision", "int8", env={"COLUMNS": "400"}).stdout
    )


def test_show_tells_what_became_of_each_precision(all_three: Bundle, f32_alone: Bundle) -> None:
    shown = heatline("bundle", "show", all_three.path, env={"COLUMNS": "400"}).stdout
    assert re.search(
        r"int8 +shipped as model_int8.xml; as it is: at worst 3 of 40 tiles flip, map correlation 0.9800, region IoU "
        r"0.8000 \(5th percentile 0.6000\)",
        shown,
    )
    assert "on 40 tiles of validation frames, 12 with a region, 1 on the score threshold; flips by the score" in shown
    assert "score threshold -1.000" in shown
    shown = heatline("bundle", "show", f32_alone.path, env={"COLUMNS": "400"}).stdout
    assert re.search("precisions +f32 *\n", shown)
    assert re.search(f"int8 +left out: {LEFT_OUT}; all of it: at worst 3 of 40 tiles flip", shown)


def test_show_does_not_stumble_over_figures_that_are_not_there(all_three: Bundle, tmp_path: Path) -> None:
    def fewer(manifest: dict[str, Any]) -> None:
        gate_of(manifest, "f32")["attempts"] = []
        gate_of(manifest, "bf16")["attempts"][0]["agreement"] = []
        gate_of(manifest, "bf16")["reason"] = "it was let in"
        for each in gate_of(manifest, "int8")["attempts"][0]["agreement"]:
            each |= {"map_correlation": None, "iou_median": None, "iou_p5": None}

    folder = with_manifest(all_three, tmp_path / "b", fewer)
    shown = heatline("bundle", "show", folder, env={"COLUMNS": "400"}).stdout
    assert "shipped as model_f32.xml; not held to the model" in shown
    assert "shipped as model_f32.xml, though it was let in; as it is: not held to the model" in shown
    assert "map correlation none, region IoU none (5th percentile none)" in shown


def test_diff_has_one_row_for_all_attempts_of_a_precision(all_three: Bundle, f32_alone: Bundle) -> None:
    report, _ = told("bundle", "diff", f32_alone.path, all_three.path)
    keys = [change["key"] for change in report["changes"]["gate"]]
    assert "map_gate.precisions.int8.graph" in keys
    assert "map_gate.precisions.int8.attempts.0.how" in keys
    shown = heatline("bundle", "diff", f32_alone.path, all_three.path, env={"COLUMNS": "400"}).stdout
    assert re.search("map_gate.precisions.int8.reason +its regions are elsewhere +null", shown)
    assert shown.count("map_gate.precisions.int8.attempts") == 1
    assert re.search(r"int8\.attempts +all of it: at worst 3 of 40 .* as it is: at worst 3 of 40", shown)


def test_a_calibration_says_what_it_computed_in_and_keeps_the_gate_with_its_own_thresholds(
    all_three: Bundle, far_off: Bundle, tmp_path: Path
) -> None:
    good = write_pictures(tmp_path / "good", {"a.png": np.full((230, 300, 3), 250, np.uint8)})
    for used, came in ((all_three, "int8"), (far_off, "f32")):
        target = tmp_path / came
        report, complaints = told("calibrate", used.path, good, "--precision", "int8", "--to", target)
        assert report["precision"] == came
        assert ("f32 is used instead of int8" in complaints) == (came == "f32")
        new = open_bundle(target).manifest
        assert (new.map_gate, new.tolerances, new.files) == (
            used.manifest.map_gate, used.manifest.tolerances, used.manifest.files
        )  # fmt: skip
        (record,) = new.provenance["calibrations"]
        assert (record["engine"], record["precision"]) == ("openvino", came)
        assert asked_for(open_bundle(target), "int8").engine.precision == came
    shown = heatline("bundle", "show", tmp_path / "int8", env={"COLUMNS": "400"}).stdout
    assert "evidence threshold 20.000, which were those of the export and are others now" in shown
