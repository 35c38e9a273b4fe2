"""The engine that is timed: a bundle's, in the very precision that was asked for.

`python -m bench.proven BUNDLE PRECISION` sees whether there is one: exit code 0, or an error's code and its sentence.
"""

import logging
import subprocess
import sys
from pathlib import Path

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.bundle.proven_engine import ProvenEngine, open_proven_engine
from edge.errors import BenchError, BundleError, EngineError, HeatlineError
from edge.inference import Precision

_KINDS: dict[int, type[HeatlineError]] = {kind.exit_code: kind for kind in (BundleError, EngineError, BenchError)}


def engine_in(bundle: Bundle, precision: Precision, *, batch: int = 0) -> ProvenEngine:
    """OpenVINO's, proven on this machine; a line would fall back to f32, a bench must not.

    Args:
        batch: as in `open_proven_engine`.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor in that precision.
    """
    proven = open_proven_engine(bundle, "openvino", precision, batch=batch)
    if proven.fell_back is not None:
        proven.engine.close()
        reason = proven.fell_back.partition(";")[0]  # what it advises is for whoever sets up a line
        raise BenchError(f"{precision} cannot be timed on this machine: {reason}; choose another --precision")
    return proven


def require_engine_in(bundle: Bundle, precision: Precision) -> None:
    """See that `engine_in` has one, where only other processes are to load it.

    In a process of its own: this one would map the engine's libraries ever after, which makes a service look smaller
    than it is, and keeps their files in memory.

    Raises:
        BundleError, EngineError, BenchError: as `engine_in`.
    """
    command = [sys.executable, "-m", "bench.proven", str(bundle.path), precision]
    # A group of its own: Ctrl-C in a terminal is for the bench, which ends it.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0)
    if done.returncode in _KINDS:
        raise _KINDS[done.returncode](done.stdout.decode().strip())
    if done.returncode:
        raise BenchError(f"proving the engine ended with {done.returncode}; what it said is above, report this")


def main() -> None:
    """See whether there is one."""
    path, precision = sys.argv[1:]
    logging.disable()  # of a fall back it would warn beside the sentence that says it
    try:
        engine_in(open_bundle(Path(path)), msgspec.convert(precision, Precision)).engine.close()
    except HeatlineError as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
