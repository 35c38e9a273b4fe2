"""Makes each precision, compares it with the model itself, and admits it to the bundle or leaves it out.

If a precision loses verdicts or maps, the next variant is tried, with more layers in f32, until one passes. The map
gate compares a precision's verdicts and regions with those of the model itself: the noise of int8 cancels in the mean
over a map, but not in each cell."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.bundle.manifest import Agreement, Attempt, MapGate, PrecisionGate
from heatline.edge.errors import EngineError, ExportError, PrecisionError
from heatline.edge.inference import Engine, Precision, infer, open_engine
from heatline.edge.inference.engine import GRAPHS, OPENVINO_GRAPH
from heatline.edge.util.text import format_count
from heatline.export.openvino_ir import Ir, write_graphs
from heatline.export.quantise import VARIANTS, in_f32_under_bf16, outer_layers, output_layer, quantise
from heatline.export.validation_tiles import ValidationTiles
from heatline.train.validation_frames import Inputs

LIMITS: dict[Precision, dict[str, float]] = {
    "f32": {"flips": 0.005, "iou_median": 0.99, "near_p5": 0.95, "map_correlation": 0.9999},
    "bf16": {"flips": 0.005, "iou_median": 0.97, "near_p5": 0.95, "map_correlation": 0.999},
    "int8": {"flips": 0.005, "iou_median": 0.90, "near_p5": 0.90, "map_correlation": 0.99},
}
"""Largest share of tiles whose verdict flips, smallest overlap of regions, and smallest correlation of the maps if no
tile has a region; docs/precisions.md gives the reasons."""
NO_REGION = (
    "no validation tile has a region, so the gate compares no regions: it checks the correlation of the maps instead; "
    "validate on more defective frames"
)


def measure_agreement(validation: ValidationTiles, engine: Engine) -> Agreement:
    """Measure how far an engine's answers differ from the model's.

    Raises:
        EngineError: the engine does not answer, or an answer is not finite.
    """
    logit, maps = infer(engine, validation.tiles, validation.difference)
    if not (np.isfinite(logit).all() and np.isfinite(maps).all()):
        raise EngineError("the answers to some tiles are not finite")
    regions = validation.regions[validation.with_region], validation.find_regions(maps[validation.with_region])
    overlap, near = overlaps(*regions), nearness(*regions)
    threshold = validation.score_threshold
    flips = ((logit >= threshold) != (validation.logit >= threshold)) & validation.settled
    return Agreement(
        batch=engine.batch,
        logit_difference=float(np.abs(logit - validation.logit).max()),
        flips=int(flips.sum()),
        map_correlation=_correlation(validation.map, maps),
        iou_median=float(np.median(overlap)) if overlap.size else None,
        iou_p5=float(np.percentile(overlap, 5)) if overlap.size else None,
        near_p5=float(np.percentile(near, 5)) if near.size else None,
    )


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Return Pearson's correlation over all cells together; None if one side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return found if np.isfinite(found) else None


def describe_missed_limits(
    precision: Precision, validation: ValidationTiles, figures: Sequence[Agreement]
) -> list[str]:
    """Describe the limits that the worst batch size misses."""
    limits, tiles, missed = LIMITS[precision], len(validation.tiles), []
    flips = max(each.flips for each in figures)
    if flips > limits["flips"] * tiles:
        missed.append(f"{flips} of {format_count(tiles, 'verdict')} differ; at most {100 * limits['flips']:.1f} % may")
    for key, template in (
        ("iou_median", "regions overlap by {:.3f} at the median"),
        ("near_p5", "{:.3f} of the regions lie within a cell of each other at the 5th percentile"),
    ):
        values = [value for each in figures if (value := getattr(each, key)) is not None]
        if values and min(values) < limits[key]:
            missed.append(f"{template.format(min(values))}, expected at least {limits[key]:g}")
    if not validation.with_region.any():
        # Constant maps have no correlation.
        least = min(0.0 if each.map_correlation is None else each.map_correlation for each in figures)
        if least < limits["map_correlation"]:
            missed.append(
                f"no tile has a region, and the maps correlate by {least:.4f}, expected at least "
                f"{limits['map_correlation']:g}"
            )
    return missed


def overlaps(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the intersection over union [N] of regions [N, rows, columns]; each reference has at least one cell."""
    both, either = (reference & found).sum(axis=(1, 2)), (reference | found).sum(axis=(1, 2))
    return np.asarray(both / either, np.float64)


def nearness(reference: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share [N] of the cells of both regions [N, rows, columns] that lie in the other region or are
    neighbours of its cells, also diagonally; each reference has at least one cell.

    For small regions the overlap means little: if one cell becomes two, it is a half.
    """
    near = (reference & _dilate(found)).sum(axis=(1, 2)) + (found & _dilate(reference)).sum(axis=(1, 2))
    return np.asarray(near / (reference.sum(axis=(1, 2)) + found.sum(axis=(1, 2))), np.float64)


def _dilate(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add all neighbouring cells to the regions."""
    neighbourhood = np.ones((3, 3), np.uint8)
    dilated = [cv2.dilate(region.view(np.uint8), neighbourhood).view(np.bool_) for region in regions]
    return np.stack(dilated) if dilated else regions


BATCHES = (1, 8)
"""OpenVINO's default batch size on the line, and a size that suits other engines."""
FIRST_IN_F32_UNDER_BF16 = (0.0, 1 / 6, 1 / 3)
"""Shares of the layers, from the first on, that are tried in f32 while the rest computes in bf16."""
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
LEAST_TOLERANCE, MOST_TOLERANCE = 1e-3, 0.5
"""Limits of the tolerance for golden tiles in bf16 or int8 on the line PC, as a share of the scale. The tolerance is
twice the difference on the exporting machine. A precision that exceeds the upper limit there never enters the bundle.
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One variant of a precision."""

    description: str
    make: Callable[[], Ir]
    graph: str
    """The file name of its IR."""


@dataclass(frozen=True)
class Made:
    """A variant that runs: the IR that the line would compile, and its tolerance."""

    graph: str
    ir: Ir
    tolerance: float
    """For golden tiles on the line PC, as a share of the scale."""


Result = tuple[PrecisionGate, Made | None]
"""Of one precision; None: it is left out of the bundle."""


@dataclass(frozen=True)
class Precisions:
    """The results for all precisions."""

    evaluated: Mapping[Precision, Result]
    """Always includes f32."""

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the graphs that enter the bundle."""
        shipped = [made.ir.files(made.graph) for _, made in self.evaluated.values() if made]
        return {name: data for files in shipped for name, data in files.items()}

    @property
    def tolerances(self) -> dict[Precision, float]:
        """The tolerances of the precisions in the bundle, except f32, which has its own."""
        return {
            precision: made.tolerance for precision, (_, made) in self.evaluated.items() if made and precision != "f32"
        }

    def gate(self, validation: ValidationTiles) -> MapGate:
        """Return the results for the manifest."""
        return MapGate(
            tiles=len(validation.tiles),
            tiles_are=validation.tiles_are,
            tiles_with_region=int(validation.with_region.sum()),
            tiles_on_threshold=int((~validation.settled).sum()),
            score_threshold=validation.score_threshold,
            evidence_threshold=validation.find_regions.evidence_threshold,
            limits={precision: LIMITS[precision] for precision in self.evaluated},
            precisions={precision: gate for precision, (gate, _) in self.evaluated.items()},
        )


def make_precisions(
    f32: Ir,
    for_bf16: Callable[[], Ir] | None,
    validation: ValidationTiles,
    golden: GoldenTiles,
    *,
    precisions: Collection[Precision],
    allow: Collection[Precision],
    quantisation_samples: Inputs | None,
    transformer: bool,
    say: Say,
) -> Precisions:
    """Make and evaluate the given precisions, and f32.

    Args:
        for_bf16: makes the IR for bf16; None: it is that of f32.
        allow: precisions that enter the bundle although they fail, unless golden tiles differ by `MOST_TOLERANCE`.
        quantisation_samples: what the graph takes; None: int8 is not made.
        say: called with a description of each attempt.
    Raises:
        ExportError: f32 does not run. The limits that f32 misses here are only reported: its own gate is stricter, and
            on few tiles rounding alone moves cells and verdicts that lie on a threshold.
    """
    evaluated: dict[Precision, Result] = {}
    if not validation.with_region.any():
        say(f"warning: {NO_REGION}")
    if "int8" in precisions and quantisation_samples is not None:
        say("quantising")
        int8 = int8_candidates(f32, quantisation_samples, transformer=transformer)
        evaluated["int8"] = evaluate_candidates("int8", int8, validation, golden, allow="int8" in allow, say=say)
    if "bf16" in precisions:
        bf16 = bf16_candidates(f32, for_bf16)
        evaluated["bf16"] = evaluate_candidates("bf16", bf16, validation, golden, allow="bf16" in allow, say=say)
        _, shared = evaluated["bf16"]
        if shared is not None and shared.graph == OPENVINO_GRAPH:
            f32 = shared.ir
    unchanged = [Candidate("without changes", lambda: f32, OPENVINO_GRAPH)]
    gate, made = evaluated["f32"] = evaluate_candidates("f32", unchanged, validation, golden, allow=True, say=say)
    if made is None:
        raise ExportError(f"f32 cannot be run: {gate.reason}; this model must not be exported as it is")
    return Precisions({precision: evaluated[precision] for precision in PRECISIONS if precision in evaluated})


def bf16_candidates(f32: Ir, for_bf16: Callable[[], Ir] | None) -> Iterator[Candidate]:
    """Yield variants of the IR of f32, or of the IR that is made for bf16.

    The IR marks the layers that stay in f32. The marks mean nothing to f32, so one IR can serve both precisions.
    """
    ir, graph = (f32, OPENVINO_GRAPH) if for_bf16 is None else (for_bf16(), GRAPHS["bf16"][-1])
    model = ir.read()
    for share in FIRST_IN_F32_UNDER_BF16:
        first = f" and the first {100 * share:.0f} % of the layers" if share else ""
        in_f32 = outer_layers(model, share) + output_layer(model)
        yield Candidate(f"the last layer{first} in f32", partial(in_f32_under_bf16, ir, in_f32), graph)


def int8_candidates(f32: Ir, samples: Inputs, *, transformer: bool) -> Iterator[Candidate]:
    """Yield variants that are quantised by these samples."""
    for variant in VARIANTS if transformer else VARIANTS[1:]:
        make = partial(quantise, f32, samples, variant, transformer=transformer)
        yield Candidate(variant.description, make, GRAPHS["int8"][0])


def evaluate_candidates(
    precision: Precision,
    candidates: Iterable[Candidate],
    validation: ValidationTiles,
    golden: GoldenTiles,
    *,
    allow: bool = False,
    say: Say = lambda line: None,
) -> Result:
    """Return the first of one or more candidates that passes; with `allow`, the last that runs within `MOST_TOLERANCE`,
    although it failed. `say` is called with a description of each attempt.
    """
    tried: list[tuple[Attempt, Made | None]] = []
    for candidate in candidates:
        made: Made | None = None
        figures: list[Agreement] = []
        can_run = True
        try:
            made, figures, missed = _evaluate_candidate(precision, candidate, validation, golden, in_full=allow)
        except (EngineError, ExportError) as error:
            can_run = not isinstance(error, PrecisionError)  # else no other variant runs on this machine either
            missed = [str(error) if can_run else f"the machine of the export has no {precision}"]
        say(f"{precision}, {candidate.description}: {'; '.join(missed) or 'agrees with the model'}")
        tried.append((Attempt(candidate.description, figures, missed), made))
        if not missed or not can_run:
            break
    # The result belongs to the last: one that passed, or one that runs, whose reason says more.
    tried.sort(key=lambda one: (not one[0].missed, one[1] is not None, bool(one[0].agreement)))
    attempt, made = tried[-1]
    if attempt.missed and not allow:
        made = None
    graph, reason = None if made is None else made.graph, "; ".join(attempt.missed) or None
    return PrecisionGate(graph, reason, [each for each, _ in tried]), made


def _evaluate_candidate(
    precision: Precision, candidate: Candidate, validation: ValidationTiles, golden: GoldenTiles, *, in_full: bool
) -> tuple[Made | None, list[Agreement], list[str]]:
    """Return a candidate's files for the bundle, its agreement with the model, and the limits that it misses. The first
    is None if it cannot enter the bundle.

    Args:
        in_full: measure all batch sizes, although the first one shows that the candidate fails.
    Raises:
        ExportError, EngineError: the candidate cannot be made or run.
    """
    ir = candidate.make()
    figures: list[Agreement] = []
    missed: list[str] = []
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_graphs(folder, ir.files(candidate.graph))
        for batch in BATCHES:
            opened = open_engine(
                "openvino", folder, validation.tile_px, precision=precision, graph=candidate.graph, batch=batch
            )
            with contextlib.closing(opened) as engine:
                figures.append(measure_agreement(validation, engine))
                # The line's own batch size sets the tolerance.
                differences = differences or golden.differences(*infer(engine, golden.tiles, golden.difference))
            missed = describe_missed_limits(precision, validation, figures)
            if missed and not in_full:
                return None, figures, missed
    if not all(each <= MOST_TOLERANCE for each in differences.values()):  # a NaN fails too
        return None, figures, [*missed, f"golden tiles are off by more than {MOST_TOLERANCE:g} of the scale"]
    tolerance = min(MOST_TOLERANCE, max(LEAST_TOLERANCE, 2 * max(differences.values())))
    return Made(candidate.graph, ir, tolerance), figures, missed
