"""The `heatline` command under test: in this process, or in its own where pipes, signals and exits matter."""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heatline.edge.cli.main import log_to, run

ROOT = Path(__file__).parents[1]
"""The checkout."""
DRAWN_BOARDS = ROOT / "examples" / "drawn_boards" / "bundle"
"""A bundle with some MB of weights, which an engine maps into memory and may read later."""
HEATLINE = Path(sys.executable).with_name("heatline")
WITHIN_SECONDS = 60.0
"""Bounds what would otherwise hang; never what is measured."""
QUIET = {"OPENCV_LOG_LEVEL": "SILENT"}
WIDE = {"COLUMNS": "200"}
"""A terminal in which no line of a table is folded."""


def heatline(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in this process: what it printed, and the exit code that a process would have.

    A bug comes through as its own exception. What the command changes of the process is put back.
    """
    command = [str(argument) for argument in arguments]
    edge_log = logging.getLogger("heatline")
    level, on_sigterm = edge_log.level, signal.getsignal(signal.SIGTERM)
    with (
        contextlib.chdir(cwd or os.curdir),
        CliRunner().isolation(env={"NOTIFY_SOCKET": None, **QUIET, **(env or {})}) as (out, err, _),
    ):
        assert isinstance(sys.stdout, io.TextIOWrapper)
        sys.stdout.reconfigure(errors="surrogateescape")  # as `main` has it
        log = log_to(sys.stderr)
        try:
            code = run(command)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            logging.getLogger().removeHandler(log)
            edge_log.setLevel(level)
            signal.signal(signal.SIGTERM, on_sigterm)
        sys.stdout.flush()
        sys.stderr.flush()
        printed = out.getvalue().decode(errors="surrogateescape")
        return subprocess.CompletedProcess(command, code, printed, err.getvalue().decode())


def heatline_process(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in a process of its own, as a shell does."""
    return subprocess.run(
        [HEATLINE, *arguments],
        env=process_env(env),
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=WITHIN_SECONDS,
        check=False,
    )


def in_python(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python process of its own, which can import the tests."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False)


def process_env(extra: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment for a child that is not a service of systemd's, and `extra`."""
    clean = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return {**clean, **QUIET, **(extra or {})}


def successful(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The result of a command that must succeed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_json(*arguments: str | Path, **options: Any) -> Any:
    """Run a command that succeeds with --json; return what it printed."""
    return json.loads(successful(heatline(*arguments, "--json", **options)).stdout)


def refused(code: int, *arguments: str | Path, **options: Any) -> str:
    """The one sentence with which a command is refused: with this exit code, and nothing on standard output."""
    result = heatline(*arguments, **options)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    return complaint(result)


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which a command gave up; that it is one, and no traceback, is checked here."""
    assert "Traceback" not in result.stderr, result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("heatline:")]
    assert len(sentences) == 1, f"{len(sentences)} sentences on standard error:\n{result.stderr}"
    return sentences[0]


def sentence_of(kind: type[Exception], call: Callable[..., object], *arguments: object) -> str:
    """The one sentence of the error that a call must raise: a command prints it as it is."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
