"""The command line that all test apparatus shares: options, output and exit code.

Apparatus kills processes, fills disks and needs the whole machine, so no installed package contains it.
"""

import argparse
import contextlib
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from heatline.bench.command import SHIPPED_BUNDLE
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, deliver, new_report
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.cli.output import print_facts
from heatline.edge.errors import BenchError, HeatlineError

INTERRUPTED = 130
Number = TypeVar("Number", int, float)


class Result(NamedTuple):
    """Result of a run."""

    found: msgspec.Struct
    """Content of the result file."""
    facts: Mapping[str, object]
    """Names and values, for people."""
    faults: Sequence[str]
    """All faults, one sentence each; empty: the run passed."""


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all apparatus has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--bundle", type=Path, default=SHIPPED_BUNDLE, help="the bundle that the line runs")
    made.add_argument("--out", type=Path, help="write the result there, as JSON")
    return made


def positive(kind: type[Number], *, or_zero: bool = False) -> Callable[[str], Number]:
    """Return a reader of an option's number, which is finite.

    Args:
        kind: int or float.
        or_zero: whether it may be 0.
    """

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if math.isfinite(value) and (value > 0 or (or_zero and value == 0)):
                return value
        raise argparse.ArgumentTypeError(
            f"expected {'0 or more' if or_zero else 'more than 0'} ({kind.__name__}), got {text}"
        )

    return read


def run(name: str, arguments: argparse.Namespace, measure: Callable[[argparse.Namespace, Bundle], Result]) -> int:
    """Run an apparatus; return the exit code: 0 if it passed, 14 with a sentence if not, 130 if it was interrupted.

    SIGTERM and SIGHUP end it like Ctrl-C, so that its processes, folders and disks are removed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        now, bundle = machine(), open_bundle(arguments.bundle)
        claim(arguments.out)
        found, facts, faults = measure(arguments, bundle)
        report = new_report(name, now, found)
        deliver(report, arguments.out, as_json=False, show=lambda _: print_facts(name, facts))
        if faults:
            raise BenchError("; ".join(faults))
    except HeatlineError as error:
        report_line(f"{name}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def report_line(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def counts(of: Mapping[str, int]) -> str:
    """Format names and numbers.

    >>> counts({"GOOD": 7, "DEFECT": 1})
    'GOOD 7, DEFECT 1'
    """
    return ", ".join(f"{name} {count}" for name, count in of.items()) or "none"
