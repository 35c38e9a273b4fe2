"""`heatline archive inspect` on Ray: the table is the same whatever ends meanwhile, and nothing is inspected again."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heatline.archive import run
from heatline.edge.bundle import Bundle
from tests.archive import archives
from tests.archive.archives import DEADLY, Table, inspected_here, parts_in, plan_of, table_of, write_archive
from tests.command import HEATLINE, complaint, heatline, run_json, successful
from tests.edge.lines import started, tree
from tests.edge.secured import free_port, until

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the logs of Ray's processes
WITHIN_SECONDS = 120.0
PICTURES, PART = 24, 2
TASK = "ray::inspect_part"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that take a while, so that something can end meanwhile."""
    return write_archive(tmp_path_factory.mktemp("source"), PICTURES, (1200, 1600))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, source: Path, bundle: Bundle) -> Table:
    """The table of a run without faults, and without Ray."""
    return inspected_here([bundle], source, tmp_path_factory.mktemp("dest") / "whole", PART)


@contextlib.contextmanager
def once(fact: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """Call `action` in another thread as soon as `fact` holds."""
    done = threading.Event()

    def watch() -> None:
        wait_for(fact)
        action()
        done.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    assert done.is_set(), "it never came to that"
    thread.join()


wait_for = functools.partial(until, within_s=WITHIN_SECONDS)


def title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def workers_below(pid: int) -> list[int]:
    """Return the processes that inspect a part. Ray has many threads, and `tree` looks at each."""
    found = {int(each) for each in os.listdir("/proc") if each.isdigit() and title(int(each)).startswith(TASK)}
    return [each for each in tree(pid) if each in found] if found else []


def kill_in_the_middle(command: subprocess.Popen[str], dest: Path) -> Path:
    """Kill a local run after its first part, and wait until no process is left; return Ray's folder."""
    wait_for(lambda: parts_in(dest))
    below = {pid: title(pid) for pid in tree(command.pid)[1:]}
    (own_ray,) = (words for words in below.values() if "gcs_server" in words.partition(" ")[0])
    assert "--node-ip-address=127.0.0.1 " in own_ray, "it has a Ray of its own, which listens on loopback"
    command.kill()
    command.communicate(timeout=WITHIN_SECONDS)
    # Two agents of Ray look for their killed parent only once a minute.
    wait_for(lambda: all("Agent" in words for pid, words in below.items() if title(pid)))
    assert 0 < len(parts_in(dest)) < PICTURES / PART
    (folder,) = {match for words in below.values() for match in re.findall(r"/tmp/heatline-ray-\w+", words)}
    return Path(folder)


def test_a_killed_driver_and_a_killed_worker_cost_only_their_parts(
    tmp_path: Path, source: Path, expected: Table, bundle: Bundle, cluster: str
) -> None:
    plan_of(source, tmp_path, PART)
    alone = {"RAY_ADDRESS": "127.0.0.1:1", "HOME": str(tmp_path.parent)}  # although the environment names a cluster
    command = "archive", "inspect", bundle.path, source, "--out", tmp_path
    with started(HEATLINE, *command, "--workers", "2", env=alone) as driver:
        folder = kill_in_the_middle(driver, tmp_path)
    shutil.rmtree(folder)  # a killed driver leaves its files
    there = len(parts_in(tmp_path))

    def kill_one() -> None:
        wait_for(lambda: workers_below(os.getpid()))
        os.kill(workers_below(os.getpid())[0], signal.SIGKILL)

    command = *command, "--json"
    with once(lambda: len(parts_in(tmp_path)) > there, kill_one):
        found = run_json(*command, "--address", cluster)
    assert (found["pictures"], found["inspected"]) == (PICTURES, PICTURES - PART * there)
    assert found["bundles"][bundle.digest] == {
        "path": str(bundle.path), "name": "darkness", "version": "1", "good": 16, "defect": 8, "no_verdict": 0
    }  # fmt: skip
    assert table_of(tmp_path) == expected
    before = {path: path.stat().st_mtime_ns for path in parts_in(tmp_path)}
    again = heatline(*command, env={"PATH": ""})  # without Ray
    assert (again.returncode, json.loads(again.stdout)["inspected"]) == (0, 0), again.stderr
    assert "SOURCE is not listed again" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in parts_in(tmp_path)} == before


@pytest.mark.long
def test_a_part_that_kills_its_workers_is_named_and_the_others_are_inspected(
    tmp_path: Path, bundle: Bundle, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_archive(tmp_path / "source", 8)
    deadly = source / "left" / "0002.png"
    expected = {row["picture"]: row for row in inspected_here([bundle], source, tmp_path / "whole")}
    deadly.write_bytes(DEADLY)
    plan_of(source, tmp_path / "dest")
    monkeypatch.setattr(run, "inspect_part", archives.inspect_part_and_die)
    command = "archive", "inspect", bundle.path, source, "--out", tmp_path / "dest", "--address", cluster
    result = heatline(*command)
    assert result.returncode == 6, result.stderr
    assert "a picture among left/0000.png to left/0006.png ended its worker 4 times" in complaint(result)
    assert {row["picture"]: row for row in table_of(tmp_path / "dest")} == {
        name: row for name, row in expected.items() if name.startswith("right")
    }
    deadly.unlink()
    result = heatline(*command)
    assert (result.returncode, "1 row of" in complaint(result)) == (9, True), result.stderr
    assert table_of(tmp_path / "dest")[1]["reason"] == "failed.unreadable"


@pytest.mark.long
def test_a_machine_outside_a_cluster_uses_it(tmp_path: Path, source: Path, expected: Table, bundle: Bundle) -> None:
    from ray.cluster_utils import Cluster  # Ray takes a second to import, in each process that collects tests

    plan_of(source, tmp_path, PART)
    port, agent_port = free_port(), free_port()
    # Ray 2.60 tells its server of clients a port of the agent only if it is given.
    ports = {"ray_client_server_port": port.number, "runtime_env_agent_port": agent_port.number}
    node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False, **ports}
    started = Cluster(initialize_head=True, head_node_args=node)
    try:
        address = f"ray://127.0.0.1:{port.number}"
        successful(heatline("archive", "inspect", bundle.path, source, "--out", tmp_path, "--address", address))
    finally:
        started.shutdown()
    assert table_of(tmp_path) == expected


def test_a_dest_of_something_else_and_a_cluster_that_is_not_there_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    source, dest, full = write_archive(tmp_path / "source", 2), tmp_path / "dest", tmp_path / "full"
    plan_of(source, dest)
    (tmp_path / "other").mkdir()
    full.mkdir()
    (full / "x").write_text("")
    new = source, "--out", tmp_path / "new", "--address"
    for arguments, code, words in (
        ((tmp_path / "other", "--out", dest), 9, f"has the verdicts of {source}, and {tmp_path / 'other'} came"),
        ((source, "--out", dest, "--against", bundle.path), 9, "is the same bundle"),
        ((source, "--out", dest, "--precision", "int8"), 4, "has no int8"),
        ((source, "--out", full), 9, "is not empty and has no pictures.parquet"),
        ((source, "--out", full / "x"), 9, "is not heatline's"),
        ((tmp_path / "none", "--out", tmp_path / "new"), 9, "does not exist"),
        ((*new, "127.0.0.1:1"), 7, "the Ray cluster at 127.0.0.1:1 cannot be joined ([Errno 111] Connection refused)"),
        ((*new, "ray://nowhere"), 7, "expected HOST:PORT or ray://HOST:PORT"),
    ):
        result = heatline("archive", "inspect", bundle.path, *arguments)
        assert (result.returncode, words in complaint(result)) == (code, True), result.stderr
    assert not (tmp_path / "new" / "verdicts").exists()
    assert [path.name for path in full.iterdir()] == ["x"]
