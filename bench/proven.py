"""The engine that is timed: a bundle's, in the very precision that was asked for."""

import logging
from pathlib import Path

from bench.engine_process import in_own_process
from edge.bundle import Bundle, open_bundle
from edge.bundle.proven_engine import ProvenEngine, open_proven_engine
from edge.errors import BenchError
from edge.inference import Precision


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

    Raises:
        BundleError, EngineError, BenchError: as `engine_in`.
    """
    with in_own_process(_prove, bundle.path, precision):
        pass


def _prove(path: Path, precision: Precision) -> None:
    logging.disable()  # of a fall back it would warn beside the sentence that says it
    engine_in(open_bundle(path), precision).engine.close()
