"""Each precision made, held against the model itself, and let into the bundle or left out of it.

A precision that loses verdicts or maps is made again in another way, in which more of it stays in f32, until one way
passes or none is left.
"""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle import GoldenTiles
from edge.bundle.manifest import Agreement, Attempt, MapGate, PrecisionGate
from edge.errors import EngineError, ExportError, PrecisionError
from edge.inference import Engine, Precision, infer, open_engine
from edge.inference.engine import GRAPHS, OPENVINO_GRAPH
from export.layers_in_f32 import first_layers, in_f32_under_bf16, output_layer
from export.map_gate import LIMITS, NO_REGION, agreement, missed
from export.openvino_ir import Ir, writing_graph
from export.quantise import WAYS, quantise
from export.validation_tiles import ValidationTiles

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
class Made:
    """A precision that could be run: what the line would compile, and how far it is off on golden tiles."""

    graph: str
    ir: Ir
    tolerance: float
    """For golden tiles on the line's machine, as a share of the scale."""


@dataclass(frozen=True)
class EvaluatedModel:
    """What became of a precision."""

    gate: PrecisionGate
    made: Made | None
    """None where it is left out."""


@dataclass(frozen=True)
class Precisions:
    """What became of all of them."""

    judged: Mapping[Precision, EvaluatedModel]
    """f32 is always there."""

    @property
    def files(self) -> dict[str, bytes]:
        """The graphs that go into the bundle."""
        found: dict[str, bytes] = {}
        for one in self.judged.values():
            found |= one.made.ir.files(one.made.graph) if one.made else {}
        return found

    @property
    def tolerances(self) -> dict[Precision, float]:
        """Of those that go into the bundle, but for f32, which has its own."""
        return {
            precision: one.made.tolerance
            for precision, one in self.judged.items()
            if one.made is not None and precision != "f32"
        }

    def gate(self, held: ValidationTiles) -> MapGate:
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
    held: ValidationTiles,
    golden: GoldenTiles,
    *,
    precisions: Collection[Precision],
    allow: Collection[Precision],
    quantise_by: NDArray[np.uint8] | None,
    transformer: bool,
    say: Say,
) -> Precisions:
    """Make and judge those of `precisions`, and f32.

    Args:
        for_bf16: what bf16 is made from, where that is not the IR of f32.
        allow: those that go into the bundle though they fail, unless golden tiles are off by `MOST_TOLERANCE`.
        quantise_by: tiles [N, tile, tile, 3], without which there is no int8.
        say: told of each attempt, in words.
    Raises:
        ExportError: f32 cannot be run. What it misses here is told and does not keep it out: its own gate is stricter,
            and on few tiles rounding alone moves cells and verdicts that lie on a threshold.
    """
    judged: dict[Precision, EvaluatedModel] = {}
    if not held.with_region.any():
        say(f"warning: {NO_REGION}")
    if "int8" in precisions and quantise_by is not None:
        say("quantising")
        candidates = int8_candidates(f32, quantise_by, transformer=transformer)
        judged["int8"] = judge("int8", candidates, held, golden, allow="int8" in allow, say=say)
    if "bf16" in precisions:
        judged["bf16"] = judge("bf16", bf16_candidates(f32, for_bf16), held, golden, allow="bf16" in allow, say=say)
        shared = judged["bf16"].made
        if shared is not None and shared.graph == OPENVINO_GRAPH:
            f32 = shared.ir
    judged["f32"] = judge(
        "f32", [Candidate("as it is", lambda: f32, OPENVINO_GRAPH)], held, golden, allow=True, say=say
    )
    if judged["f32"].made is None:
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
    held: ValidationTiles,
    golden: GoldenTiles,
    *,
    allow: bool = False,
    say: Say = lambda line: None,
) -> EvaluatedModel:
    """Take the first candidate that passes; with `allow` the last that could be run, though it failed.

    Args:
        candidates: at least one.
        allow: see `MOST_TOLERANCE` for what it does not let in.
        say: told of each attempt, in words.
    """
    failed: list[Attempt] = []
    runs: tuple[Made, Attempt] | None = None
    for candidate in candidates:
        made: Made | None = None
        figures: list[Agreement] = []
        lacks = False
        try:
            made, figures = _hold(precision, candidate, held, golden)
            found = missed(precision, held, figures)
            if made is None:
                found.append(f"golden tiles are off by more than {MOST_TOLERANCE:g} of the scale")
        except (EngineError, ExportError) as error:
            lacks = isinstance(error, PrecisionError)
            found = [f"the machine of the export has no {precision}" if lacks else str(error)]
        attempt = Attempt(candidate.how, figures, found)
        say(f"{precision}, {candidate.how}: {'; '.join(found) or 'passed'}")
        if made is not None and not found:
            return EvaluatedModel(PrecisionGate(made.graph, None, [*failed, attempt]), made)
        failed.append(attempt)
        if made is not None:
            runs = made, attempt
        elif lacks:  # whatever else is tried, it is the same machine
            break
    if allow and runs is not None:
        made, attempt = runs
        others = [each for each in failed if each is not attempt]
        return EvaluatedModel(PrecisionGate(made.graph, "; ".join(attempt.missed), [*others, attempt]), made)
    failed.sort(key=lambda attempt: bool(attempt.agreement))  # what could be run says more than what could not
    return EvaluatedModel(PrecisionGate(None, "; ".join(failed[-1].missed), failed), None)


def _hold(
    precision: Precision, candidate: Candidate, held: ValidationTiles, golden: GoldenTiles
) -> tuple[Made | None, list[Agreement]]:
    """How a candidate agrees with the model; and what it would be in a bundle, unless golden tiles forbid it.

    Raises:
        ExportError, EngineError: it cannot be made, or not be run.
    """
    ir = candidate.make()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with writing_graph(folder):
            for name, data in ir.files(candidate.graph).items():
                (folder / name).write_bytes(data)

        def opened(batch: int) -> "contextlib.closing[Engine]":
            return contextlib.closing(
                open_engine("openvino", folder, held.tile_px, precision=precision, graph=candidate.graph, batch=batch)
            )

        figures = []
        for batch in BATCHES:
            with opened(batch) as engine:
                figures.append(agreement(held, engine))
        with opened(BATCHES[0]) as engine:
            off = golden.differences(*infer(engine, golden.tiles)).values()
    if not all(each <= MOST_TOLERANCE for each in off):  # a NaN is too far off too
        return None, figures
    return Made(candidate.graph, ir, min(MOST_TOLERANCE, max(LEAST_TOLERANCE, 2 * max(off)))), figures
