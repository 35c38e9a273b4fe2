"""`heatline bench startup`: it times whole starts of the real service, and finds out those that leave something out.

How fast anything is, is not tested.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.commands.startup import startup as command
from bench.startup import startup as measuring
from bench.startup.start import AFTER_READY, BEFORE_THE_FIRST_WORD, SAID, LineFile, import_times_ms
from bench.startup.startup import IN_WORDS, measure_startup, starts_in_all, to_facts
from edge.bundle import Bundle
from edge.errors import BenchError

HW = (240, 300)
PHASES = [BEFORE_THE_FIRST_WORD, *SAID, AFTER_READY]


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> LineFile:
    return LineFile(tmp_path, bundle, "f32", HW)


@pytest.fixture
def not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files stay in memory: it is others' memory as well."""
    monkeypatch.setattr(measuring, "DROP_CACHES", tmp_path)


def test_a_start_is_timed_phase_by_phase_in_the_services_own_words(line: LineFile) -> None:
    start = line.start(None)
    assert list(start.phases_s) == PHASES
    assert all(taken_s > 0 for taken_s in start.phases_s.values())
    assert sum(start.phases_s.values()) == pytest.approx(start.first_verdict_s)
    assert sum(start.phases_s.values()) - start.phases_s[AFTER_READY] == pytest.approx(start.ready_s)
    assert start.cpu_ready_s > 0


@pytest.mark.long
def test_every_condition_is_what_it_says(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(measuring, "_drop_files_from_memory", lambda: dropped.append("dropped"))
    came: list[object] = []
    found = measure_startup(bundle, "f32", frame_hw=HW, repetitions=1, done=lambda: came.append(None))
    assert list(found.conditions) == list(IN_WORDS)
    assert len(dropped) == 3, "once to see whether it can be, and before each start that is to be cold"
    assert len(came) == starts_in_all(1)
    for starts in found.conditions.values():
        assert list(starts.phases_s) == PHASES
        assert len(starts.starts) == 1
    assert found.conditions["warm"].ready_to_warm.median == 1
    assert found.why_not_cold is None
    assert {"numpy", "openvino", "cv2", "edge", "standard library"} <= found.imports_ms.keys()
    assert "cold" not in to_facts(found)
    assert "its host may hold the files" in str(to_facts(found, is_virtual=True)["cold"])


def test_a_start_that_does_not_use_the_cache_is_not_called_cached(
    bundle: Bundle, not_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = LineFile.start

    def without(self: LineFile, cache: Path | None, *, options: Sequence[str] = ()) -> object:
        return start(self, None, options=options)

    monkeypatch.setattr(LineFile, "start", without)
    monkeypatch.setattr(measuring, "_turn", lambda *_, **__: ["cached"])
    with pytest.raises(BenchError, match=r"to be cached did not use .*: it was left alone, expected taken from"):
        measure_startup(bundle, "f32", frame_hw=HW, repetitions=1)


def test_a_start_that_compiles_as_the_kept_graph_is_damaged_is_not_called_cached(
    bundle: Bundle, not_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = LineFile.start

    def damaged(self: LineFile, cache: Path | None, *, options: Sequence[str] = ()) -> object:
        for graph in [] if cache is None else cache.iterdir():
            graph.write_bytes(graph.read_bytes()[:-1])
        return start(self, cache, options=options)

    monkeypatch.setattr(LineFile, "start", damaged)
    monkeypatch.setattr(measuring, "_turn", lambda *_, **__: ["warm", "cached"])
    with pytest.raises(BenchError, match=r"to be cached did not use .*: it was filled anew, expected taken from"):
        measure_startup(bundle, "f32", frame_hw=HW, repetitions=1)


def stand_in(folder: Path, body: str) -> str:
    """Something else in the service's place."""
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, socket\n"
        "to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "say = lambda text: to.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])\n"
        f"{body}\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("say('READY=1'); input()", "READY without .*running the golden tiles; that is not its whole start"),
        (
            "say('STATUS=NOT_READY: compiling')\nraise SystemExit('it is broken')",
            "exit code 1 before READY=1: .*broken",
        ),
        ("\n".join(f"say('STATUS=NOT_READY: {word}')" for word in SAID) + "\nsay('READY=1')", "before a verdict"),
    ],
)
def test_what_does_not_start_as_the_service_does_is_found_out(
    line: LineFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.setattr("bench.startup.start.sys.executable", stand_in(tmp_path, body))
    with pytest.raises(BenchError, match=words):
        line.start(None)


def test_a_service_that_cannot_start_is_a_sentence_with_its_own(line: LineFile) -> None:
    line.path.write_text("nonsense")
    with pytest.raises(BenchError, match=r"ended with exit code 3 before READY=1: .*is not valid TOML") as caught:
        line.start(None)
    assert "\n" not in str(caught.value)


def test_imports_are_summed_by_library() -> None:
    log = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   numpy.linalg
import time:      1500 |       1600 | numpy
import time:       200 |        200 |     json.decoder
import time:       300 |        500 |   os
INFO edge.service.lifecycle: ready: so | and | so
import time:       700 |        700 | edge.frames
"""
    assert import_times_ms(log) == {"numpy": 1.6, "edge": 0.7, "standard library": 0.5}
    assert list(import_times_ms(log)) == ["numpy", "edge", "standard library"]


@pytest.mark.long
def test_the_command_prints_where_the_time_goes_and_a_result_that_names_the_machine(
    bundle: Bundle, not_root: None, tmp_path: Path
) -> None:
    out = tmp_path / "startup.json"
    arguments = [str(bundle.path), "--size", "300x240", "--repetitions", "1", "--out", str(out)]
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    for words in (
        IN_WORDS["cached"],
        "READY after",
        "running the golden tiles",
        "not measured: ",
        "it takes root",
        "target",
    ):
        assert words in shown.output
    report = json.loads(out.read_text())
    assert report["bench"] == "startup"
    assert list(report["conditions"]) == ["warm", "cached"]
    assert report["machine"]["versions"]["openvino"]


def test_it_needs_no_extra() -> None:
    imports = "import sys, bench.commands.startup, bench.startup.startup; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded & {"torch", "timm", "lightning", "onnx", "nncf", "pytest", "train", "export"} == set()
