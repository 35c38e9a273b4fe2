"""Describes drift to people: what changed, from what to what, what it usually means, and what to do."""

from collections.abc import Mapping

from heatline.edge.bundle.manifest import Measure
from heatline.edge.wire.events import DriftReading

WHAT: Mapping[str, tuple[str, str]] = {
    "brightness": ("the pictures are darker", "the pictures are brighter"),
    "sharpness": ("the pictures are less sharp", "the pictures have more fine detail or noise"),
    "saturation": ("the colours are paler", "the colours are stronger"),
    "shift_x": ("the part lies further left", "the part lies further right"),
    "shift_y": ("the part lies further up", "the part lies further down"),
    "turn": ("the part is turned further counterclockwise", "the part is turned further clockwise"),
    "match": ("the pictures match the reference picture less", "the pictures match the reference picture better"),
    "score": ("good frames score lower", "good frames score higher"),
    "evidence": ("good frames have less evidence", "good frames have more evidence"),
}
CHECK: dict[Measure, str] = {
    "brightness": "check lamps, exposure time, aperture and dirt on lamp or lens",
    "sharpness": "check focus, distance, vibration, dirt on the lens and the camera's gain",
    "saturation": "check lamps, stray light and white balance, and whether the material is another",
    "shift_x": "check the camera's mount, the fixture and the trigger",
    "shift_y": "check the camera's mount, the fixture and the trigger",
    "turn": "check the camera's mount, the fixture and the trigger",
    "match": "check whether camera or part is turned or moved far, and whether the product is another",
    "score": "check light, focus and position, and whether the material is another",
    "evidence": "check light, focus and position, and whether the material is another",
}
UNITS: dict[Measure, str] = {
    "shift_x": " px",
    "shift_y": " px",
    "turn": " degrees",
    "score": " logits",
    "evidence": " logits",
}


def describe_drift(measure: Measure, reading: DriftReading) -> str:
    """Describe a drift, or its end, in a sentence."""
    found = f"{measure} {describe_reading(measure, reading)}, over the last {reading.frames} measured frames"
    if not reading.drifted:
        return f"as at calibration again: {found}"
    what = describe_change(measure, reading.value, reading.low)
    return f"{what} than at calibration: {found}; {CHECK[measure]}; if the change is to stay, calibrate again"


def describe_change(measure: str, value: float, low: float) -> str:
    """Describe in words what a drifted value means, by the lowest value to expect."""
    lower, higher = WHAT.get(measure, (measure, measure))
    return lower if value < low else higher


def describe_reading(measure: Measure, reading: DriftReading) -> str:
    """Describe a value and what is expected, such as `96.2, expected 110 to 131`."""
    unit = UNITS.get(measure, "")
    return f"{reading.value:.3g}{unit}, expected {describe_limits(reading.low, reading.high)}{unit}"


def describe_limits(low: float, high: float | None) -> str:
    """Describe the values to expect.

    >>> describe_limits(0.812, None), describe_limits(110, 131.25)
    ('at least 0.812', '110 to 131')
    """
    return f"at least {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
