"""Opens a bundle's engine in the requested precision, and verifies it on this machine by the golden tiles."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.bundle.golden import GoldenTilesError, check_golden
from heatline.edge.bundle.store import Bundle
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.inference import open_engine, require_device, require_precision
from heatline.edge.inference.engine import (
    PROCESSOR,
    Engine,
    EngineKind,
    Precision,
)

logger = logging.getLogger(__name__)

MOST_CACHED = 8
"""Compiled graphs in the cache; when there are more, the oldest are deleted."""


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine whose golden tiles passed. `engine.precision` is the precision that it actually uses."""

    engine: Engine
    differences: dict[str, float]
    """The largest difference of each output on the golden tiles, as a share of its scale."""
    requested: Precision
    fell_back: str | None = None
    """Why it computes in f32 and not in the requested precision, in one sentence; none: it uses the requested one."""

    @property
    def computes_in(self) -> str:
        """Its precision, for people: `f32`, or `f32 instead of int8`."""
        return self.engine.precision + ("" if self.fell_back is None else f" instead of {self.requested}")


def open_verified_engine(
    bundle: Bundle,
    kind: EngineKind = "openvino",
    precision: Precision = "f32",
    *,
    device: str = PROCESSOR,
    threads: int = 0,
    streams: int = 0,
    batch: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> VerifiedEngine:
    """Compile a bundle's graph for a precision and run its golden tiles.

    If this machine cannot compute in bf16 or int8, or its answers differ by more than the bundle allows, f32 is used
    instead, with a warning; f32 itself has no fallback. Another warning names the limits that a precision fails
    although it is in the bundle.

    Args:
        device, threads, streams, batch: as in `open_engine`.
        cache: folder for compiled graphs; None: no cache.
        say: called with a description of each step.
    Raises:
        BundleError: the bundle lacks that precision, or must not be used on this machine.
        EngineError: this kind of engine does not support that precision, or f32 does not load or compile.
    """
    require_precision(kind, precision)
    require_device(kind, device)
    manifest, golden = bundle.manifest, bundle.golden()

    def verify(precision: Precision, cache: Path | None = cache) -> tuple[Engine, dict[str, float]]:
        graph = bundle.graph_for(precision)
        if cache is not None:
            _delete_oldest(cache, keep=MOST_CACHED - 1)
        try:
            say("compiling")
            engine = open_engine(
                kind,
                bundle.path,
                manifest.grid.tile_px,
                device=device,
                precision=precision,
                graph=graph,
                threads=threads,
                streams=streams,
                batch=batch,
                cache=cache,
            )
            try:
                say("running the golden tiles")
                differences = check_golden(golden, engine, manifest)
            except Exception:
                engine.close()
                raise
        except (EngineError, BundleError) as error:
            if cache is None:
                raise
            logger.warning("compiled without the cache in %s, which is emptied: %s", cache, error)
            _delete_oldest(cache, keep=0)
            return verify(precision, None)
        return engine, differences

    if precision == "f32":
        return VerifiedEngine(*verify("f32"), "f32")
    try:
        verified = VerifiedEngine(*verify(precision), precision)
    except (EngineError, GoldenTilesError) as error:
        fell_back = f"f32 is used instead of {precision}: {error}"
    else:
        if (fails := manifest.fails(precision)) is not None:
            logger.warning("%s is in %s although it fails the map gate: %s", precision, bundle.path, fails)
        return verified
    logger.warning("%s", fell_back)
    return VerifiedEngine(*verify("f32"), precision, fell_back)


def _delete_oldest(cache: Path, *, keep: int) -> None:
    """Delete compiled graphs of OpenVINO, except the newest ones."""
    with contextlib.suppress(OSError):  # then the engine reports what is wrong with the folder
        for graph in sorted(cache.glob("*.blob"), key=lambda path: path.stat().st_mtime_ns, reverse=True)[keep:]:
            graph.unlink()
