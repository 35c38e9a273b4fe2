"""The engine that a bundle is used with: opened in the precision that is wanted, and proven on this machine."""

import logging
from dataclasses import dataclass

from edge.bundle.golden import GoldenTilesError, check_golden
from edge.bundle.store import Bundle
from edge.errors import BundleError, EngineError
from edge.inference.engine import Engine, EngineKind, Precision
from edge.inference.opening import open_engine, require_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProvenEngine:
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


def open_proven_engine(
    bundle: Bundle,
    kind: EngineKind = "openvino",
    precision: Precision = "f32",
    *,
    threads: int = 0,
    streams: int = 0,
    batch: int = 0,
) -> ProvenEngine:
    """Compile a bundle's graph for a precision and run its golden tiles.

    Where this machine cannot compute in bf16 or int8, or answers otherwise than the bundle allows for it, f32 is used
    instead, and a warning says so; f32 itself has nothing to fall back to. Another warning says what a precision
    misses that was let into the bundle all the same.

    Args:
        threads, streams, batch: as in `open_engine`.
    Raises:
        BundleError: the bundle lacks that precision, or must not be used on this machine.
        EngineError: this kind of engine never has that precision, or f32 does not load or compile.
    """
    require_precision(kind, precision)
    manifest, golden = bundle.manifest, bundle.golden()

    def prove(precision: Precision) -> tuple[Engine, dict[str, float]]:
        graph = manifest.graph_for(precision)
        if graph is None:
            raise BundleError(
                f"{bundle.path} has no {precision} ({manifest.why_without(precision)}); choose "
                f"{' or '.join(manifest.precisions)}, or export the bundle again"
            )
        engine = open_engine(
            kind,
            bundle.path,
            manifest.grid.tile_px,
            precision=precision,
            graph=graph,
            threads=threads,
            streams=streams,
            batch=batch,
        )
        try:
            return engine, check_golden(golden, engine, manifest)
        except Exception:
            engine.close()
            raise

    if precision == "f32":
        return ProvenEngine(*prove("f32"), "f32")
    try:
        proven = ProvenEngine(*prove(precision), precision)
    except (EngineError, GoldenTilesError) as error:
        fell_back = f"f32 is used instead of {precision}: {error}"
    else:
        if (fails := manifest.fails(precision)) is not None:
            logger.warning("%s was let into %s though it fails the map gate: %s", precision, bundle.path, fails)
        return proven
    logger.warning("%s", fell_back)
    return ProvenEngine(*prove("f32"), precision, fell_back)
