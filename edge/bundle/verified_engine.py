"""The engine that a bundle is used with: opened in the precision that is wanted, and verified on this machine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.bundle.compiled_model_cache import CompiledModelCache
from edge.bundle.golden import GoldenTilesError, check_golden
from edge.bundle.store import Bundle
from edge.errors import BundleError, EngineError
from edge.inference.engine import PROCESSOR, Engine, EngineKind, Precision
from edge.inference.opening import open_engine, require_device, require_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine whose golden tiles came out as they should. `engine.precision` is what it truly computes in."""

    engine: Engine
    differences: dict[str, float]
    """How far each output is off on the golden tiles, as a share of its scale."""
    asked_for: Precision
    fell_back: str | None = None
    """Why it computes in f32 and not in what was asked for, in one sentence; none: it computes in that."""

    @property
    def computes_in(self) -> str:
        """Its precision, for people: `f32`, or `f32 instead of int8`."""
        return self.engine.precision + ("" if self.fell_back is None else f" instead of {self.asked_for}")


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

    Where this machine cannot compute in bf16 or int8, or answers otherwise than the bundle allows for it, f32 is used
    instead, and a warning says so; f32 itself has nothing to fall back to. Another warning says what a precision
    misses that was let into the bundle all the same.

    Args:
        device, threads, streams, batch: as in `open_engine`.
        cache: folder in which compiled graphs are kept; None: nowhere.
        say: hears what is done now.
    Raises:
        BundleError: the bundle lacks that precision, or must not be used on this machine.
        EngineError: this kind of engine never has that precision, or f32 does not load or compile.
    """
    require_precision(kind, precision)
    require_device(kind, device)
    manifest, golden = bundle.manifest, bundle.golden()

    def prove(precision: Precision) -> tuple[Engine, dict[str, float]]:
        graph = bundle.graph_for(precision)
        keeper = None if cache is None else CompiledModelCache(cache, bundle.digest)
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
                keeper=keeper,
            )
            try:
                say("running the golden tiles")
                differences = check_golden(golden, engine, manifest)
            except Exception:
                engine.close()
                raise
        except (EngineError, BundleError) as error:
            if keeper is None or not keeper.gave:
                raise
            logger.warning("a graph that was compiled before is of no use: %s", error)
            return prove(precision)  # which compiles: that graph has been taken out
        engine.verified()
        return engine, differences

    if precision == "f32":
        return VerifiedEngine(*prove("f32"), "f32")
    try:
        verified = VerifiedEngine(*prove(precision), precision)
    except (EngineError, GoldenTilesError) as error:
        fell_back = f"f32 is used instead of {precision}: {error}"
    else:
        if (fails := manifest.fails(precision)) is not None:
            logger.warning("%s was let into %s though it fails the map gate: %s", precision, bundle.path, fails)
        return verified
    logger.warning("%s", fell_back)
    return VerifiedEngine(*prove("f32"), precision, fell_back)
