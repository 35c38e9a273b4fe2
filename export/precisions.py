"""Each precision made, held against the model itself, and let into the bundle or left out of it.

A precision that loses verdicts or maps is made again in another way, in which more of it stays in f32, until one way
passes or none is left.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle import GoldenTiles
from edge.bundle.manifest import Agreement, Attempt, MapGate, PrecisionGate
from edge.errors import EngineError, ExportError
from edge.inference import Precision, infer, open_engine
from edge.inference.engine import GRAPHS, OPENVINO_GRAPH
from export.held_tiles import HeldTiles
from export.layers_in_f32 import first_layers, in_f32_under_bf16, output_layer
from export.map_gate import LIMITS, agreement, missed
from export.openvino_ir import Ir
from export.quantise import WAYS, quantise

BATCHES = (1, 8)
"""What OpenVINO is given on the line unless it is told otherwise, and a batch as other engines like it."""
FIRST_IN_F32_UNDER_BF16 = (0.0, 1 / 6, 1 / 3)
"""Shares of the layers, from the first on, that are tried in f32 where the rest computes in bf16."""
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
LEAST_TOLERANCE = 1e-3
"""How far golden tiles may be off on the line's machine in bf16 or int8, as a share of the scale, if they hardly are
on the machine that exports; else twice as far as there.
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One way to make a precision."""

    how: str
    ir: Ir
    graph: str
    """The file name that it would have."""


@dataclass(frozen=True)
class Judged:
    """What became of a precision."""

    gate: PrecisionGate
    ir: Ir
    """The last that was tried: it is in the bundle where the gate names a graph."""
    tolerance: float | None
    """For golden tiles; none where it is left out."""


@dataclass(frozen=True)
class Precisions:
    """What became of all of them."""

    judged: Mapping[Precision, Judged]
    """f32 is always there."""

    @property
    def files(self) -> dict[str, bytes]:
        """The graphs that go into the bundle."""
        found: dict[str, bytes] = {}
        for one in self.judged.values():
            found |= {} if one.gate.graph is None else one.ir.files(one.gate.graph)
        return found

    @property
    def tolerances(self) -> dict[Precision, float]:
        """Of those that go into the bundle, but for f32, which has its own."""
        return {
            precision: one.tolerance
            for precision, one in self.judged.items()
            if one.tolerance is not None and precision != "f32"
        }

    def gate(self, held: HeldTiles) -> MapGate:
        """What the manifest tells."""
        return MapGate(
            tiles=len(held.tiles),
            tiles_are=held.tiles_are,
            tiles_with_region=int(held.with_region.sum()),
            tiles_on_threshold=int((~held.settled).sum()),
            score_threshold=held.score_threshold,
            evidence_threshold=held.evidence_threshold,
            limits={precision: LIMITS[precision] for precision in self.judged},
            precisions={precision: one.gate for precision, one in self.judged.items()},
        )


def make_precisions(
    f32: Ir,
    for_bf16: Ir | None,
    held: HeldTiles,
    golden: GoldenTiles,
    *,
    precisions: Collection[Precision],
    allow: Collection[Precision],
    quantisation_tiles: Callable[[], NDArray[np.uint8]],
    transformer: bool,
    say: Say,
) -> Precisions:
    """Make and judge those of `precisions`, and f32.

    Args:
        for_bf16: what bf16 is made from, where that is not the IR of f32.
        allow: those that go into the bundle though they fail.
        quantisation_tiles: asked for if they are needed.
        say: told of each attempt, in words.
    Raises:
        ExportError: f32 cannot be run. What it misses here is told and does not keep it out: its own gate is stricter,
            and on few tiles rounding alone moves cells and verdicts that lie on a threshold.
    """
    judged: dict[Precision, Judged] = {}
    if "int8" in precisions:
        say("quantising")
        candidates = int8_candidates(f32, quantisation_tiles(), transformer=transformer)
        judged["int8"] = judge("int8", candidates, held, golden, allow="int8" in allow, say=say)
    if "bf16" in precisions:
        judged["bf16"] = judge("bf16", bf16_candidates(f32, for_bf16), held, golden, allow="bf16" in allow, say=say)
        if judged["bf16"].gate.graph == OPENVINO_GRAPH:
            f32 = judged["bf16"].ir
    judged["f32"] = judge("f32", [Candidate("as it is", f32, OPENVINO_GRAPH)], held, golden, allow=True, say=say)
    if judged["f32"].gate.graph is None:
        reason = judged["f32"].gate.reason
        raise ExportError(f"f32 cannot be run: {reason}; this model must not be exported as it is")
    return Precisions({precision: judged[precision] for precision in PRECISIONS if precision in judged})


def bf16_candidates(f32: Ir, for_bf16: Ir | None) -> Iterator[Candidate]:
    """The IR of f32 under another hint, or one that is made for bf16.

    Which layers stay in f32 is noted in the IR and means nothing to f32, so that one IR may serve both.
    """
    ir, graph = (f32, OPENVINO_GRAPH) if for_bf16 is None else (for_bf16, GRAPHS["bf16"][-1])
    model = ir.read()
    for share in FIRST_IN_F32_UNDER_BF16:
        how = "the last layer" + (f" and the first {share:.0%} of the layers" if share else "") + " in f32"
        yield Candidate(how, in_f32_under_bf16(ir, first_layers(model, share) + output_layer(model)), graph)


def int8_candidates(f32: Ir, tiles: NDArray[np.uint8], *, transformer: bool) -> Iterator[Candidate]:
    """Quantised by tiles [N, tile, tile, 3]."""
    for way in WAYS:
        yield Candidate(way.how, quantise(f32, tiles, way, transformer=transformer), GRAPHS["int8"][0])


def judge(
    precision: Precision,
    candidates: Iterable[Candidate],
    held: HeldTiles,
    golden: GoldenTiles,
    *,
    allow: bool = False,
    say: Say = lambda line: None,
) -> Judged:
    """Take the first candidate that passes; with `allow` the last, though it failed, if it can be run at all.

    Args:
        candidates: at least one.
        say: told of each attempt, in words.
    """
    attempts: list[Attempt] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for candidate in candidates:
            for name, data in candidate.ir.files(candidate.graph).items():
                (folder / name).write_bytes(data)
            attempts.append(_attempt(precision, candidate, folder, held))
            say(f"{precision}, {candidate.how}: {'; '.join(attempts[-1].missed) or 'passed'}")
            if not attempts[-1].missed:
                break
        last = attempts[-1]
        ships = not last.missed or (allow and bool(last.agreement))
        gate = PrecisionGate(
            graph=candidate.graph if ships else None, reason="; ".join(last.missed) or None, attempts=attempts
        )
        return Judged(gate, candidate.ir, _tolerance(precision, folder, candidate.graph, golden) if ships else None)


def _attempt(precision: Precision, candidate: Candidate, folder: Path, held: HeldTiles) -> Attempt:
    figures: list[Agreement] = []
    try:
        for batch in BATCHES:
            engine = open_engine(
                "openvino", folder, held.tile_px, precision=precision, graph=candidate.graph, batch=batch
            )
            figures.append(agreement(held, engine))
    except EngineError as error:
        return Attempt(candidate.how, [], [str(error)])
    return Attempt(candidate.how, figures, missed(precision, held, figures))


def _tolerance(precision: Precision, folder: Path, graph: str, golden: GoldenTiles) -> float:
    engine = open_engine("openvino", folder, golden.tiles.shape[1], precision=precision, graph=graph)
    here = max(golden.differences(*infer(engine, golden.tiles)).values())
    return min(1.0, max(LEAST_TOLERANCE, 2 * here))
