"""A line forks for nobody and asks for no host, whatever the libraries that it loads would like to do.

A fork of a process of many threads may hang for ever, and holds all that the line holds: its port, its state folder.
"""

from pathlib import Path

import pytest

from edge.bundle import Bundle
from tests.edge.lines import running, small_frames, write_line, write_pictures

WATCHING = """
import os, sys

def watch(event, arguments):
    if event in ("os.fork", "os.forkpty", "socket.getaddrinfo", "urllib.Request"):
        with open({seen!r}, "a") as file:
            print(event, *map(str, arguments), file=file)

sys.addaudithook(watch)
"""


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.long)])
def test_a_line_forks_for_nobody_and_asks_for_no_host(
    tmp_path: Path, bundle: Bundle, address: str, engine: str
) -> None:
    seen, watcher = tmp_path / "seen", tmp_path / "watcher"
    watcher.mkdir()
    seen.touch()
    (watcher / "sitecustomize.py").write_text(WATCHING.replace("{seen!r}", repr(str(seen))))
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, f'[engine]\nkind = "{engine}"')
    # What marks a machine that builds software would keep some libraries quiet.
    env = {"PYTHONPATH": str(watcher), "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    with running(line, address, env=env) as run:
        run.until_stopped()
        assert run.exit_code() == 0
    assert seen.read_text() == ""
