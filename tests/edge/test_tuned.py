"""Tuned settings apply to keys that the line's file does not set, on the machine that they were measured with."""

import json
import logging
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from heatline.edge.bundle import Bundle
from heatline.edge.config import engine_keys_set, load_config
from heatline.edge.config.engine import EngineConfig
from heatline.edge.config.tuned import MAX_BUNDLES, Tuned, measured_with, read_tuned, tuned_file, write_tuned
from heatline.edge.errors import BundleError, ConfigError, EngineError
from heatline.edge.inference.devices import devices, settings_on
from heatline.edge.inference.opening import open_engine
from heatline.edge.service.loading import prepare
from tests.command import heatline
from tests.edge.lines import running, write_line_with
from tests.small_bundle import TILE

CAMERA = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 20}
BEST = EngineConfig(threads=1, streams=1, batch=2)
OTHERS = {"processor": "another one", "cores": 999, "engine_version": "openvino 1999.1"}


def tuned(digest: str, engine: EngineConfig = BEST, **other: Any) -> Tuned:
    return Tuned(**{"bundle": digest, "engine": engine, **measured_with(engine), **other})


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    return write_line_with(tmp_path, bundle.path, address, {"top": CAMERA})


def with_engine(line: Path, keys: str) -> None:
    line.write_text(f"{line.read_text()}\n[engine]\n{keys}\n")


# The file.


def test_tuned_settings_are_written_beside_the_lines_file_and_read(line: Path, bundle: Bundle) -> None:
    wanted = tuned(bundle.digest, frames=['top 240x240 at 20/s, "so"'], at_utc="2026-11-26T07:00:00Z")
    path = write_tuned(line, wanted)
    assert path == line.parent / "line.tuned.toml" == tuned_file(line)
    assert read_tuned(path) == [wanted]
    assert tomllib.loads(path.read_text())["tuned"][0]["engine"]["batch"] == 2
    assert [each.name for each in line.parent.glob("*tuned*")] == ["line.tuned.toml"], "and nothing unfinished"


def test_the_tuned_file_has_the_permissions_of_the_lines_file(line: Path, bundle: Bundle) -> None:
    before = os.umask(0o077)
    try:
        for mode in (0o640, 0o644):
            line.chmod(mode)
            found, of_line = write_tuned(line, tuned(bundle.digest)).stat(), line.stat()
            assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (mode, of_line.st_uid, of_line.st_gid)
    finally:
        os.umask(before)


def test_each_bundle_has_its_own_settings_and_old_ones_are_dropped(line: Path, bundle: Bundle) -> None:
    for number in range(MAX_BUNDLES + 3):
        path = write_tuned(line, tuned(f"{number:064x}"))
    write_tuned(line, tuned(bundle.digest))
    again = replace(BEST, batch=4)
    write_tuned(line, tuned(bundle.digest, again))
    found = read_tuned(path)
    assert len(found) == MAX_BUNDLES
    assert [each.engine for each in found if each.bundle == bundle.digest] == [again]
    assert found[0].bundle == f"{4:064x}"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace("[[tuned]]", "[[tuned"), "is not valid TOML"),
        (
            lambda text: text.replace("batch", "batches"),
            "tuned[0].engine does not know the key batches",
        ),
        (
            lambda text: text.replace("threads = 1", "threads = -1"),
            "tuned[0].engine.threads is -1; expected",
        ),
        (
            lambda text: text.replace("bundle = ", 'bundle = "abc" #'),
            "tuned[0].bundle is 'abc'; expected a d",
        ),
        (lambda text: text + "\udcff", "is not valid TOML"),
    ],
)
def test_a_damaged_tuned_file_is_a_configuration_error_in_one_sentence(
    line: Path, bundle: Bundle, spoil: Callable[[str], str], words: str
) -> None:
    path = write_tuned(line, tuned(bundle.digest))
    path.write_bytes(spoil(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_config(line)
    sentence = str(caught.value)
    for part in (str(path), words, "run heatline bench tune again, or delete the file"):
        assert part in sentence
    assert "\n" not in sentence
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"line\.tuned\.toml cannot be read \(it is a folder"):
        load_config(line)


# The active settings.


def test_tuned_settings_apply_to_keys_that_the_lines_file_does_not_set(line: Path, bundle: Bundle) -> None:
    assert load_config(line).engine_for(bundle.digest).settings == EngineConfig()
    path = write_tuned(line, tuned(bundle.digest))
    found = load_config(line).engine_for(bundle.digest)
    assert (found.settings, found.tuned_by, found.not_tuned) == (BEST, str(path), None)
    assert engine_keys_set(line) == frozenset()
    with_engine(line, "streams = 0\nbatch = 8")  # a key that is set has priority, also with its default
    assert load_config(line).engine_for(bundle.digest).settings == EngineConfig(threads=1, streams=0, batch=8)
    assert engine_keys_set(line) == {"streams", "batch"}


@pytest.mark.parametrize("key", [*OTHERS, "bundle"])
def test_tuned_settings_are_not_used_on_another_machine_or_bundle(line: Path, bundle: Bundle, key: str) -> None:
    known = tuned(bundle.digest)
    write_tuned(line, replace(known, **{key: ({"bundle": "0" * 64} | OTHERS)[key]}))
    found = load_config(line).engine_for(bundle.digest)
    assert (found.settings, found.tuned_by) == (EngineConfig(), None)
    words = f"it holds nothing for bundle {bundle.digest[:12]}"
    if key != "bundle":
        words = f"{OTHERS[key]}, and this is {getattr(known, key)}"
    assert f"{words}; run heatline bench tune again, or delete the file" in str(found.not_tuned)


@pytest.mark.parametrize(
    ("keys", "engine", "words"),
    [
        ('kind = "onnxruntime"', BEST, "it is for openvino, and the line's file sets another engine.kind"),
        ('device = "CPU"', replace(BEST, device="GPU"), "it is for GPU"),
        ('kind = "onnxruntime"', EngineConfig(kind="onnxruntime"), None),
        ('precision = "int8"', EngineConfig(kind="onnxruntime"), "onnxruntime computes only in f32"),
    ],
)
def test_tuned_settings_are_not_used_with_another_kind_or_device(
    line: Path, bundle: Bundle, keys: str, engine: EngineConfig, words: str | None
) -> None:
    with_engine(line, keys)
    write_tuned(line, tuned(bundle.digest, engine))
    found = load_config(line).engine_for(bundle.digest)
    assert (found.not_tuned is None) == (words is None)
    assert words is None or words in str(found.not_tuned)


# Preparing.


def test_a_bundle_is_prepared_as_tuned(line: Path, bundle: Bundle) -> None:
    write_tuned(line, tuned(bundle.digest))
    prepared = prepare(load_config(line))
    assert (prepared.engine.settings, prepared.setup.verified.engine.batch) == (BEST, 2)
    again = prepare(load_config(line), active=prepared)
    assert again.setup.verified is prepared.setup.verified, "nothing of it changed"
    write_tuned(line, tuned(bundle.digest, replace(BEST, batch=1)))
    changed = prepare(load_config(line), active=prepared)
    assert (changed.setup.verified is prepared.setup.verified, changed.setup.verified.engine.batch) == (False, 1)


def test_a_line_starts_without_tuned_settings_that_do_not_work(
    line: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, the driver of a graphics unit is missing."""
    write_tuned(line, tuned(bundle.digest, replace(BEST, device="GPU.7")))
    prepared = prepare(load_config(line))
    assert (prepared.engine.settings, prepared.engine.tuned_by) == (EngineConfig(), None)
    assert prepared.setup.verified.fell_back is None
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, prepared.engine.not_tuned)
    assert "line.tuned.toml is not used: engine.device is GPU.7, OpenVINO finds" in record.getMessage()
    write_tuned(line, tuned(bundle.digest, replace(BEST, precision="int8")))
    assert prepare(load_config(line)).engine.not_tuned is not None, "that bundle has no int8"


def test_the_lines_own_settings_that_do_not_work_are_an_error(line: Path, bundle: Bundle, tmp_path: Path) -> None:
    before = line.read_text()
    with_engine(line, 'device = "GPU.7"')
    for _ in range(2):
        with pytest.raises(EngineError, match=r"engine\.device is GPU\.7, OpenVINO finds .*CPU"):
            prepare(load_config(line))
        write_tuned(line, tuned(bundle.digest, replace(BEST, device="GPU.7")))
    line.write_text(before.replace(str(bundle.path), str(tmp_path / "nowhere")))
    with pytest.raises(BundleError):
        prepare(load_config(line))


# Devices.


def test_devices_that_change_by_themselves_are_refused(line: Path) -> None:
    before = line.read_text()
    for device in ("AUTO", "HETERO:GPU,CPU", "BATCH:CPU", "GPU.", "cpu", "CPU\n", "GPU.100"):
        line.write_text(f"{before}\n[engine]\ndevice = {json.dumps(device)}\n")
        with pytest.raises(ConfigError, match=r"engine\.device is .*; expected CPU, GPU, "):
            load_config(line)


def test_onnx_runtime_computes_only_on_the_processor(line: Path, bundle: Bundle) -> None:
    with_engine(line, 'kind = "onnxruntime"\ndevice = "GPU"')
    with pytest.raises(ConfigError, match=r"engine\.device is 'GPU', but onnxruntime computes only on CPU"):
        load_config(line)
    with pytest.raises(EngineError, match="onnxruntime cannot compute on GPU, only on CPU"):
        open_engine("onnxruntime", bundle.path, TILE, device="GPU")


def test_only_the_processor_gets_threads() -> None:
    assert "CPU" in devices(), "every machine has it"
    on_processor = settings_on("CPU", "f32", threads=4, streams=0)
    assert (on_processor["INFERENCE_NUM_THREADS"], on_processor["NUM_STREAMS"]) == (4, 4)
    elsewhere = settings_on("GPU.1", "f32", threads=4, streams=0)
    assert not {"INFERENCE_NUM_THREADS", "NUM_STREAMS"} & elsewhere.keys()
    assert settings_on("GPU", "f32", threads=4, streams=2)["NUM_STREAMS"] == 2
    assert all(each["INFERENCE_PRECISION_HINT"] == "f32" for each in (on_processor, elsewhere)), "never by default"


# The commands and the service.


def test_check_prints_the_active_settings_and_their_source(line: Path, bundle: Bundle) -> None:
    path = write_tuned(line, tuned(bundle.digest))
    result = heatline("check", line, "--json")
    report = json.loads(result.stdout)
    assert (report["engine_settings"]["batch"], report["tuned_by"], result.stderr) == (2, str(path), "")
    write_tuned(line, tuned(bundle.digest, cores=999))
    result = heatline("check", line, "--json")
    report = json.loads(result.stdout)
    assert (report["engine_settings"]["batch"], report["tuned_by"]) == (0, None)
    assert f"WARNING heatline.edge.service.loading: {report['not_tuned']}" in result.stderr


def test_the_service_uses_tuned_settings_and_a_reload_reads_them_again(
    line: Path, bundle: Bundle, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tuned(line, tuned(bundle.digest))
    with running(line, address) as run:
        run.until_inspected()
        path.write_text("nonsense")
        refused = run.reload()
        assert (refused.applied, "line.tuned.toml is not valid TOML" in str(refused.detail)) == (False, True)
        path.unlink()
        write_tuned(line, tuned(bundle.digest, replace(BEST, batch=4)))
        assert run.reload().applied
        run.until_inspected()
        write_tuned(line, tuned(bundle.digest, processor="another one"))
        assert run.reload().applied
        run.until_inspected()
        assert run.end().gaps == []
    log = capsys.readouterr().err
    expected = ["ready: ", f"tuned by {path}: openvino in f32, 1 thread, 1 stream, batches of 2", "batches of 4"]
    places = [log.index(words) for words in [*expected, "another one, and this is"]]
    assert places == sorted(places)
