"""A calibration in words: what set the thresholds, what frames must look like, and what the frames support."""

from collections.abc import Mapping

from edge.binomial import CONFIDENCE
from edge.bundle import Calibration
from edge.bundle.manifest import Plausible, ScoreBy
from edge.bundle.plausibility import SLACK
from edge.util.text import format_count

NOT_KNOWN = "not known: every frame gets a verdict"
"""Of what frames must look like."""


def describe_range(low: float, high: float | None) -> str:
    """What is plausible from `low` to `high`; None: there is no highest.

    >>> describe_range(224, 224), describe_range(60.04, 140.0), describe_range(0.0512, None)
    ('224', '60 to 140', '0.0512 or more')
    """
    if high is None:
        return f"{_short(low)} or more"
    return _short(low) if low == high else f"{_short(low)} to {_short(high)}"


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.3g}"


def describe_plausible(plausible: Plausible | None) -> str:
    """What frames must look like to get a verdict."""
    if plausible is None:
        return NOT_KNOWN
    size = " x ".join(describe_range(*px) for px in (plausible.width_px, plausible.height_px))
    vitals = "; ".join(f"{name} {describe_range(*getattr(plausible, name))}" for name in SLACK)
    features = (
        "features of tiles are not known"
        if plausible.distance is None
        else f"features up to {plausible.distance:.3g} from the product's"
    )
    return f"{size} px; {vitals}; {features}; by {format_count(plausible.frames, 'frame')}"


_SCORE_BY: Mapping[ScoreBy | None, str] = {
    None: "",
    "quantile": "",
    "tail": ", by a normal distribution of their highest logits",
    "margin": ", with a margin to the defective frames",
}


def count_frames(count: int, frames_are: str) -> str:
    """A count of frames and which they are, as `1 good frame of early`.

    Args:
        frames_are: in the plural, as a calibration keeps it.
    """
    return f"{count} {frames_are.replace('frames', 'frame', 1) if count == 1 else frames_are}"


def describe_rule(calibration: Calibration) -> str:
    """What set the thresholds."""
    if calibration.false_reject_per_frame is None:
        return f"{calibration.rule}: probability above 0.5"
    share = percent(calibration.false_reject_per_frame)
    words = f"{calibration.rule}: {share} of good frames{_SCORE_BY[calibration.score_by]}"
    if calibration.evidence_quantile is None:
        return words
    return f"{words}, evidence by the {percent(calibration.evidence_quantile)} quantile of their heatmap cells"


def describe_bound(calibration: Calibration) -> str:
    """What the frames say of the share of good frames that will be rejected."""
    if calibration.rejected is None or calibration.false_reject_at_most is None:
        return "not told by this bundle"
    return (
        f"{calibration.rejected} of {calibration.frames} of these frames; with {percent(CONFIDENCE)} confidence "
        f"at most {percent(calibration.false_reject_at_most)} of such frames"
    )


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"
