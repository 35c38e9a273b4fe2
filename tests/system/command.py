"""The command line that all test apparatus shares: options, output and exit code.

Apparatus kills processes, fills disks and needs the whole machine, so no installed package contains it.
"""

import argparse
import contextlib
import math
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.cli.output import print_facts
from heatline.edge.errors import BenchError, HeatlineError
from heatline.edge.util.process import cores, processor

ROOT = Path(__file__).parents[2]
INTERRUPTED = 130
ALL_GOOD = """
[engine]
precision = "f32"
[thresholds]
score = 1e9
check_plausibility = false
"""
"""Tables of a line that reaches no defect, as nearly all frames of a good line are good."""
Number = TypeVar("Number", int, float)


Result = tuple[msgspec.Struct, Sequence[str]]
"""Content of the result file beside the machine and the bundle, and all faults, one sentence each."""
LONGEST_LIST = 12
"""Longer lists, such as columns of samples, are only in the file."""


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all apparatus has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    bundle = ROOT / "examples" / "drawn_boards" / "bundle"
    made.add_argument("--bundle", type=Path, default=bundle, help="the bundle that the line runs")
    made.add_argument("--out", type=writable, help="write the result there, as JSON")
    return made


def writable(text: str) -> Path:
    """Read the path of a result; that it cannot be written is known before the run, not minutes later."""
    try:
        Path(text).open("ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written ({error.strerror})") from error
    return Path(text)


def positive(kind: type[Number], *, or_zero: bool = False) -> Callable[[str], Number]:
    """Return a reader of an option's number, which is finite. `kind`: int or float. `or_zero`: whether it may be 0."""

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if math.isfinite(value) and (value > 0 or (or_zero and value == 0)):
                return value
        raise argparse.ArgumentTypeError(
            f"expected {'0 or more' if or_zero else 'more than 0'} ({kind.__name__}), got {text}"
        )

    return read


def machine() -> dict[str, Any]:
    """Describe this machine, its load by others, and the code."""
    return {
        "processor": processor(),
        "cores": cores(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("heatline", "openvino", "numpy", "pyzmq")},
        "commit": commit(),
        "at_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def commit() -> str | None:
    """Return the commit of the code, with `-dirty` if files were changed since; None: no git knows it."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError):
        return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or None
    return None


def run(name: str, arguments: argparse.Namespace, measure: Callable[[argparse.Namespace, Bundle], Result]) -> int:
    """Run an apparatus; return the exit code: 0 if it passed, 14 with a sentence if not, 130 if it was interrupted.

    SIGTERM and SIGHUP end it like Ctrl-C, so that its processes, folders and disks are removed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        report, bundle = {"bench": name, "machine": machine()}, open_bundle(arguments.bundle)
        result, faults = measure(arguments, bundle)
        found = {"bundle": bundle.path.name, **msgspec.to_builtins(result)}
        print_facts(name, dict(facts(found)))
        if arguments.out is not None:
            arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(report | found), indent=1) + b"\n")
        assert not faults, "; ".join(faults)
    except (HeatlineError, AssertionError) as error:
        report_line(f"{name}: {error}")
        return getattr(error, "exit_code", BenchError.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def facts(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the single values of a result with their names, for people."""
    parts: Iterable[tuple[object, Any]] = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and len(value) <= LONGEST_LIST:
        parts = enumerate(value, start=1)
    elif not isinstance(value, list):
        yield name, value
    for key, part in parts:
        yield from facts(part, f"{name} {key}".strip())


def report_line(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def counts(of: Mapping[str, int]) -> str:
    """Format names and numbers."""
    return ", ".join(f"{name} {count}" for name, count in of.items())
