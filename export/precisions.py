"""Each precision made, held against the model itself, and let into the bundle or left out of it.

A precision that loses verdicts or maps is made again in another way, in which more of it stays in f32, until one way
passes or none is left.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle import GoldenTiles
from edge.bundle.manifest import Attempt, MapGate, PrecisionGate
from edge.errors import EngineError, ExportError, PrecisionError
from edge.inference import Engine, Precision, infer, open_engine
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
LEAST_TOLERANCE, MOST_TOLERANCE = 1e-3, 0.5
"""How far golden tiles may be off on the line's machine in bf16 or int8, as a share of the scale: twice as far as on
the machine that exports, within these. What is farther off there than the most is not let in by anything.
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One way to make a precision."""

    how: str
    make: Callable[[], Ir]
    graph: str
    """The file name that it would have."""


@dataclass(frozen=True)
class Judged:
    """What became of a precision."""

    gate: PrecisionGate
    ir: Ir | None = None
    tolerance: float | None = None
    """For golden tiles. Both none where it is left out."""


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
            found |= one.ir.files(one.gate.graph) if one.ir and one.gate.graph else {}
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
    for_bf16: Callable[[], Ir] | None,
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
        InputError: int8 is wanted and there are no tiles to quantise by.
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
            f32 = judged["bf16"].ir or f32
    judged["f32"] = judge(
        "f32", [Candidate("as it is", lambda: f32, OPENVINO_GRAPH)], held, golden, allow=True, say=say
    )
    if judged["f32"].ir is None:
        reason = judged["f32"].gate.reason
        raise ExportError(f"f32 cannot be run: {reason}; this model must not be exported as it is")
    return Precisions({precision: judged[precision] for precision in PRECISIONS if precision in judged})


def bf16_candidates(f32: Ir, for_bf16: Callable[[], Ir] | None) -> Iterator[Candidate]:
    """The IR of f32 under another hint, or one that is made for bf16.

    Which layers stay in f32 is noted in the IR and means nothing to f32, so that one IR may serve both.
    """
    ir, graph = (f32, OPENVINO_GRAPH) if for_bf16 is None else (for_bf16(), GRAPHS["bf16"][-1])
    model = ir.read()
    for share in FIRST_IN_F32_UNDER_BF16:
        how = "the last layer" + (f" and the first {share:.0%} of the layers" if share else "") + " in f32"
        in_f32 = first_layers(model, share) + output_layer(model)
        yield Candidate(how, partial(in_f32_under_bf16, ir, in_f32), graph)


def int8_candidates(f32: Ir, tiles: NDArray[np.uint8], *, transformer: bool) -> Iterator[Candidate]:
    """Quantised by tiles [N, tile, tile, 3]."""
    for way in WAYS:
        yield Candidate(way.how, partial(quantise, f32, tiles, way, transformer=transformer), GRAPHS["int8"][0])


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
            try:
                ir = candidate.make()
                for name, data in ir.files(candidate.graph).items():
                    (folder / name).write_bytes(data)
                figures = [
                    agreement(held, _open(precision, folder, candidate.graph, held.tile_px, batch)) for batch in BATCHES
                ]
            except PrecisionError:  # whatever else is tried, it is the same machine
                attempts.append(Attempt(candidate.how, [], [f"the machine of the export has no {precision}"]))
                break
            except (EngineError, ExportError) as error:
                attempts.append(Attempt(candidate.how, [], [str(error)]))
                say(f"{precision}, {candidate.how}: {error}")
                continue
            attempts.append(Attempt(candidate.how, figures, missed(precision, held, figures)))
            say(f"{precision}, {candidate.how}: {'; '.join(attempts[-1].missed) or 'passed'}")
            if not attempts[-1].missed:
                break
        last = attempts[-1]
        reason = "; ".join(last.missed) or None
        if not last.agreement or (last.missed and not allow):
            return Judged(PrecisionGate(None, reason, attempts))
        if precision == "f32":  # its golden tiles have a gate of their own
            return Judged(PrecisionGate(candidate.graph, reason, attempts), ir)
        logit_and_map = infer(_open(precision, folder, candidate.graph, held.tile_px), golden.tiles)
        off = max(golden.differences(*logit_and_map).values())
    if off > MOST_TOLERANCE:
        too_far = f"golden tiles are off by {off:.2f} of the scale, and nothing lets in more than {MOST_TOLERANCE:g}"
        say(f"{precision}, {last.how}: {too_far}")
        return Judged(PrecisionGate(None, "; ".join([*last.missed, too_far]), attempts))
    tolerance = min(MOST_TOLERANCE, max(LEAST_TOLERANCE, 2 * off))
    return Judged(PrecisionGate(candidate.graph, reason, attempts), ir, tolerance)


def _open(precision: Precision, folder: Path, graph: str, tile_px: int, batch: int = 0) -> Engine:
    return open_engine("openvino", folder, tile_px, precision=precision, graph=graph, batch=batch)
