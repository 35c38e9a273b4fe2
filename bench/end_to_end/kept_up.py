"""Whether a line kept up with a rate: no frame was lost, all frames came, and the last ones no later than the first."""

from collections.abc import Mapping, Sequence

import numpy as np

NEAR_ENOUGH = 0.98
"""Share of the expected frames that must come: a camera may round its rate."""
MOST_GROWTH = 0.03
"""By how much of the time that passes frames may become later: more is a queue that grows."""
QUARTERS = 4


def latency_growth_ms(latencies_ms: Sequence[float]) -> float | None:
    """Return by how much the median of the last quarter exceeds that of the first; None: there are too few frames.

    Args:
        latencies_ms: in the order of capture.
    """
    if not (quarter := len(latencies_ms) // QUARTERS):
        return None
    return float(np.median(latencies_ms[-quarter:]) - np.median(latencies_ms[:quarter]))


def why_not_kept_up(
    *, rate_fps: float, seconds: float, fewest: int, lost: Mapping[str, int], growth_ms: float | None
) -> str | None:
    """Return why a rate was not kept up with; None: it was.

    Args:
        rate_fps: of each camera.
        seconds: length of the window.
        fewest: frames of the camera of which fewest came.
        lost: frames that were lost, by reason.
        growth_ms: of `latency_growth_ms`.
    """
    if lost:
        return "lost: " + ", ".join(f"{reason} {count}" for reason, count in lost.items())
    if fewest + 1 < NEAR_ENOUGH * rate_fps * seconds:  # whether the window's ends fell before or after one is chance
        return f"cameras came at {fewest / seconds:.1f}/s"
    if growth_ms is None:
        return f"too few frames to see whether they came later and later; it takes {QUARTERS}"
    # From the middle of the first quarter to that of the last, three quarters of the time pass.
    if growth_ms > MOST_GROWTH * 0.75 * seconds * 1e3 + 0.25 * 1e3 / rate_fps:
        return f"frames came later and later, by {growth_ms:.0f} ms"
    return None
