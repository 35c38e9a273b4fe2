"""`heatline bench drift`: when a line warns of dimmed light, lost focus and a shifted part, and when it rejects good
frames.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from heatline.bench.changes import Pixels, blurred, scaled, shifted
from heatline.bench.markdown import markdown_table
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.bundle.manifest import Measure
from heatline.edge.colour import to_rgb
from heatline.edge.drift.camera import CameraReference, references_of
from heatline.edge.drift.monitor import DriftMonitor
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.images import read_image
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.references import product_references
from heatline.edge.inspection.verdict import Verdict

CAMERA = "bench"
WINDOW = 30
STEPS = 200
"""Frames over which a change grows from nothing to its end."""
ORDERS = 200
"""Orders of the unchanged frames in which warnings are counted."""


class Change(msgspec.Struct, frozen=True):
    """A change that grows: its unit, and its values at the beginning, at the end, and where it comes suddenly."""

    name: str
    unit: str
    begin: float
    end: float
    sudden: float


CHANGES = (
    Change("dimmed light", "of the light", 1.0, 0.5, 0.85),
    Change("lost focus", "px sigma", 0.0, 3.0, 1.0),
    Change("shifted part", "px right and down", 0.0, 40.0, 10.0),
)


def changed(name: str, rgb: Pixels, value: float, rng: np.random.Generator) -> Pixels:
    """Return a picture, RGB uint8 [H, W, 3], as a change of some value makes it."""
    if name == "dimmed light":
        return scaled(rgb, value)
    if name == "lost focus":
        return blurred(rgb, rng, value) if value > 0 else rgb
    return shifted(rgb, round(value))


class Views:
    """What the camera sees of pictures, RGB uint8 [H, W, 3].

    Pictures that are larger than the camera's frames show what lies beside the frame, so a shift moves the frame over
    them. Otherwise a shifted frame is mirrored at its border, which may look like a defect.

    Args:
        frame_hw: size of the camera's frames, px; None: that of the pictures.
    """

    def __init__(self, pictures: Sequence[Pixels], frame_hw: tuple[int, int] | None) -> None:
        self._pictures, self._frame_hw = pictures, frame_hw

    def __len__(self) -> int:
        return len(self._pictures)

    def see(self, index: int, name: str = "", value: float = 0.0, rng: np.random.Generator | None = None) -> Pixels:
        """Return a frame, changed if `name` is that of a change."""
        picture = self._pictures[index]
        height, width = self._frame_hw or picture.shape[:2]
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        px = round(value) if name == "shifted part" else 0
        if 0 <= px <= min(top, left):
            top, left, name = top - px, left - px, "" if px else name
        frame = picture[top : top + height, left : left + width]
        return frame if not name or rng is None else changed(name, frame, value, rng)


class Gradual(msgspec.Struct, frozen=True, kw_only=True):
    """What a slowly growing change causes first; null: nothing until its end."""

    change: str
    unit: str
    warning_at: float | None
    measure: Measure | None
    """The measure that drifted first."""
    warning_frame: int | None
    false_reject_at: float | None
    """The value at which a frame that is GOOD unchanged was DEFECT first."""
    false_reject_frame: int | None
    no_verdict_at: float | None
    no_verdict_frame: int | None


class Sudden(msgspec.Struct, frozen=True, kw_only=True):
    """How soon a sudden change is noticed."""

    change: str
    unit: str
    value: float
    warning_after: int | None
    """Frames with the change until the first warning; null: none within two windows."""
    measures: list[Measure]
    """All that drifted within two windows."""
    rejected: int
    no_verdict: int
    frames: int
    """Changed frames, of which so many were rejected or got no verdict."""


class DriftResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one bundle and its good frames."""

    bundle: str
    frames: int
    good: int
    """Frames that are GOOD unchanged; only these are changed."""
    calibrated_on: int
    window: int
    orders: int
    orders_with_warning: int
    """Orders of all unchanged frames, each frame once, in which any measure drifted."""
    gradual: list[Gradual]
    sudden: list[Sudden]
    unwatched: dict[str, str]


@dataclass(frozen=True)
class _Seen:
    verdict: Verdict
    values: Mapping[Measure, float]


class _Line:
    """Inspects frames as a line with one camera does."""

    def __init__(self, inspector: Inspector, reference: CameraReference) -> None:
        self._inspector, self._reference = inspector, reference

    def see(self, rgb: Pixels) -> _Seen:
        pending = self._inspector.start(Frame(Stamp(CAMERA, 1), np.ascontiguousarray(rgb), "RGB8"))
        judged = self._inspector.finish(pending)
        if judged.reject_reason is not None:
            return _Seen("NO_VERDICT", {})
        return _Seen(judged.verdict, self._reference.values(rgb, judged))

    def monitor(self) -> DriftMonitor:
        return DriftMonitor(self._reference.expected(), WINDOW)


def measure(bundle: Bundle, files: Sequence[Path], seed: int, report_line: Callable[[str], None]) -> DriftResult:
    """Measure by good frames that were not used for the bundle's calibration.

    Raises:
        BenchError: the bundle has no reference for drift, or too few frames are GOOD.
        InputError, BundleError, EngineError: something cannot be used.
    """
    products = product_references(bundle)
    reference = references_of(bundle, {CAMERA: WHOLE_FRAME}, products).get(CAMERA)
    if reference is None:
        raise BenchError(f"{bundle.path} does not say what to compare frames with; run heatline calibrate")
    rng = np.random.default_rng(seed)
    with contextlib.closing(open_verified_engine(bundle).engine) as engine:
        inspector = Inspector(bundle.manifest, engine, plausibility=bundle.plausibility(), references=products)
        line = _Line(inspector, reference)
        pictures = Views([to_rgb(*read_image(file)) for file in files], reference.reference.frame_hw)
        unchanged = [line.see(pictures.see(index)) for index in range(len(pictures))]
        good = [index for index, seen in enumerate(unchanged) if seen.verdict == "GOOD"]
        if len(good) < WINDOW // 2:
            raise BenchError(f"{len(good)} of {len(files)} frames are GOOD, expected {WINDOW // 2}; name more")
        report_line(f"{len(good)} of {len(files)} frames are GOOD; changing them")
        gradual, sudden = [], []
        for change in CHANGES:
            report_line(change.name)
            gradual.append(_gradual(line, change, pictures, unchanged, good, rng))
            sudden.append(_sudden(line, change, pictures, unchanged, good, rng))
    return DriftResult(
        bundle=bundle.manifest.name,
        frames=len(files),
        good=len(good),
        calibrated_on=reference.reference.frames,
        window=WINDOW,
        orders=ORDERS,
        orders_with_warning=sum(
            _warns(line.monitor(), [unchanged[index] for index in rng.permutation(len(files))]) for _ in range(ORDERS)
        ),
        gradual=gradual,
        sudden=sudden,
        unwatched={str(name): reason for name, reason in reference.reference.unwatched.items()},
    )


def _warns(monitor: DriftMonitor, frames: Sequence[_Seen]) -> bool:
    return any(reading.drifted for seen in frames for _, reading in monitor.add(seen.values))


def _warm(line: _Line, unchanged: Sequence[_Seen], good: Sequence[int], rng: np.random.Generator) -> DriftMonitor:
    """Return a monitor whose window is full of unchanged frames."""
    monitor = line.monitor()
    for index in rng.choice(good, WINDOW, replace=len(good) < WINDOW):
        list(monitor.add(unchanged[index].values))
    return monitor


def _gradual(
    line: _Line,
    change: Change,
    pictures: Views,
    unchanged: Sequence[_Seen],
    good: Sequence[int],
    rng: np.random.Generator,
) -> Gradual:
    monitor = _warm(line, unchanged, good, rng)
    first: dict[str, tuple[float, int]] = {}
    measure: Measure | None = None
    for step in range(1, STEPS + 1):
        value = change.begin + (change.end - change.begin) * step / STEPS
        seen = line.see(pictures.see(rng.choice(good), change.name, value, rng))
        if seen.verdict != "GOOD":
            first.setdefault(seen.verdict, (value, step))
        for name, reading in monitor.add(seen.values):
            if reading.drifted and "warning" not in first:
                first["warning"], measure = (value, step), name
    found = {name: first.get(name, (None, None)) for name in ("warning", "DEFECT", "NO_VERDICT")}
    return Gradual(
        change=change.name,
        unit=change.unit,
        warning_at=found["warning"][0],
        warning_frame=found["warning"][1],
        measure=measure,
        false_reject_at=found["DEFECT"][0],
        false_reject_frame=found["DEFECT"][1],
        no_verdict_at=found["NO_VERDICT"][0],
        no_verdict_frame=found["NO_VERDICT"][1],
    )


def _sudden(
    line: _Line,
    change: Change,
    pictures: Views,
    unchanged: Sequence[_Seen],
    good: Sequence[int],
    rng: np.random.Generator,
) -> Sudden:
    monitor = _warm(line, unchanged, good, rng)
    seen = [
        line.see(pictures.see(index, change.name, change.sudden, rng))
        for index in rng.choice(good, 2 * WINDOW, replace=len(good) < 2 * WINDOW)
    ]
    warned: dict[Measure, int] = {}
    for number, each in enumerate(seen, start=1):
        for name, reading in monitor.add(each.values):
            if reading.drifted:
                warned.setdefault(name, number)
    return Sudden(
        change=change.name,
        unit=change.unit,
        value=change.sudden,
        warning_after=min(warned.values(), default=None),
        measures=list(warned),
        rejected=sum(each.verdict == "DEFECT" for each in seen),
        no_verdict=sum(each.verdict == "NO_VERDICT" for each in seen),
        frames=len(seen),
    )


def table(found: DriftResult) -> str:
    """Write a result as Markdown."""
    rows = [["", *(f"{one.change}, {one.unit}" for one in found.gradual)]]
    rows.append(["first warning", *(_at(one.warning_at, one.warning_frame, one.measure) for one in found.gradual)])
    rows.append(["first false reject", *(_at(one.false_reject_at, one.false_reject_frame) for one in found.gradual)])
    rows.append(
        ["first frame without verdict", *(_at(one.no_verdict_at, one.no_verdict_frame) for one in found.gradual)]
    )
    rows.append(["sudden change", *(f"{one.value:g}" for one in found.sudden)])
    rows.append(["warning after", *(_after(one) for one in found.sudden)])
    rows.append(
        [
            "rejected; without verdict",
            *(f"{one.rejected}; {one.no_verdict} of {one.frames}" for one in found.sudden),
        ]
    )
    return markdown_table(rows)


def _at(value: float | None, frame: int | None, measure: Measure | None = None) -> str:
    if value is None:
        return "none"
    return f"{value:.3g} (frame {frame}{'' if measure is None else f', {measure}'})"


def _after(one: Sudden) -> str:
    return "none" if one.warning_after is None else f"{one.warning_after} frames ({', '.join(one.measures)})"
