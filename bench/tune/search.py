"""Search by successive halving: the better half of the candidates runs again for twice as long, until one is left.

All rounds take about the same time. The order is reversed from round to round, so that drift favours none.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
from msgspec.structs import replace

from heatline.bench.tune.shown import Shown
from heatline.bench.tune.trial import Answers, Trial
from heatline.edge.bundle.golden import GoldenTilesError
from heatline.edge.config import LineConfig
from heatline.edge.config.engine import EngineConfig
from heatline.edge.errors import EngineError
from heatline.edge.inspection.setup import Setup
from heatline.edge.service.loading import prepare

HEADROOM = 0.85
"""A rate is sustained up to this share of the highest."""
FAR_BEHIND = 0.6
"""Share of the highest rate of all: slower candidates are dropped after the first round, while enough are left."""
ENOUGH = 4
ALIKE = 1.03
"""Latencies within this factor count as equal; then fewer threads are better."""
RANKED_AT = 90
"""Percentile of the latencies by which candidates are ranked: of few frames, a higher one is that of one frame."""


class Tried(msgspec.Struct, kw_only=True):
    """Results of one candidate."""

    engine: EngineConfig
    times_as_fast: list[float] = []
    """Highest rate over the line's rate, in each round."""
    latencies_ms: list[float] = []
    """Latencies of all frames that were shown one at a time."""
    left_out: str | None = None
    """Why the candidate cannot be used on this machine."""

    @property
    def fastest(self) -> float:
        """Median of `times_as_fast`."""
        return float(np.median(self.times_as_fast)) if self.times_as_fast else 0.0

    @property
    def sustains(self) -> bool:
        """Whether the line's rate leaves headroom to the highest."""
        return self.fastest * HEADROOM >= 1

    def latency_ms(self, percentile: float = RANKED_AT) -> float:
        """Return a percentile of the latencies; infinite if there are none."""
        return float(np.percentile(self.latencies_ms, percentile)) if self.latencies_ms else math.inf

    def describe(self) -> str:
        """Describe the results so far."""
        if self.left_out is not None:
            return f"left out: {self.left_out}"
        parts = [f"{self.fastest:.2f} times the rate"]
        if self.latencies_ms:
            parts = [f"p50 {self.latency_ms(50):.1f} ms, p90 {self.latency_ms(90):.1f} ms", *parts]
        return ", ".join(parts)


def search(
    tried: Sequence[Tried],
    config: LineConfig,
    shown: Sequence[Shown],
    answers: Answers,
    *,
    seconds: float,
    report_line: Callable[[str], None],
) -> Tried | None:
    """Find the best of the candidates and fill in the results of each; None: no candidate can be used.

    Args:
        seconds: length of a candidate's run in the first round.
    Raises:
        BundleError, ConfigError: the bundle cannot be used at all.
        BenchError: scores in one precision differ between settings.
    """
    left = list(tried)
    report_line(f"{len(left)} settings: measuring the highest rate of each")
    refused: dict[tuple[str, str, str], str] = {}
    for one in left:
        of_its_kind = one.engine.kind, one.engine.device, one.engine.precision
        # A device that cannot compute in a precision cannot with other numbers of threads either.
        one.left_out = refused.get(of_its_kind)
        if one.left_out is None:
            with opened(one, config) as setup:
                if setup is not None:
                    one.times_as_fast.append(Trial(setup, shown, answers).times_as_fast(seconds / 2))
        if one.left_out is not None:
            refused[of_its_kind] = one.left_out
        report_line(f"  {one.engine}: {one.describe()}")
    left = sorted((one for one in left if one.left_out is None), key=lambda one: -one.fastest)
    best = max((one.fastest for one in left), default=0.0)
    left = [one for place, one in enumerate(left) if place < ENOUGH or one.fastest >= FAR_BEHIND * best]
    while len(left) > 1:
        report_line(f"{len(left)} settings: measuring the latency of a frame where they keep up with the rate")
        for one in left:
            with opened(one, config) as setup:
                if setup is not None:
                    trial = Trial(setup, shown, answers)
                    one.times_as_fast.append(trial.times_as_fast(seconds / 2))
                    if one.sustains:
                        one.latencies_ms += trial.alone_ms(seconds)
            report_line(f"  {one.engine}: {one.describe()}")
        left = rank([one for one in left if one.left_out is None])
        left = left[: math.ceil(len(left) / 2)][::-1]
        seconds *= 2
    return left[0] if left else None


def rank(tried: Sequence[Tried]) -> list[Tried]:
    """Sort the best first: of those that sustain the rate by the latency, then the others by their highest rate."""
    sustaining = sorted((one for one in tried if one.sustains), key=Tried.latency_ms)
    others = sorted((one for one in tried if not one.sustains), key=lambda one: -one.fastest)
    if sustaining:
        most_ms = ALIKE * sustaining[0].latency_ms()
        alike = [one for one in sustaining if one.latency_ms() <= most_ms]
        alike.sort(key=lambda one: (one.engine.threads, one.engine.streams, one.engine.batch))
        sustaining = [*alike, *sustaining[len(alike) :]]
    return [*sustaining, *others]


@contextmanager
def opened(one: Tried, config: LineConfig) -> Iterator[Setup | None]:
    """Give the setup of a candidate, compiled and verified as on the line; None if it cannot be used.

    Raises:
        BundleError, ConfigError: the bundle cannot be used at all.
    """
    try:
        setup = prepare(replace(config, engine=one.engine, tuned=None)).setup
    except (EngineError, GoldenTilesError) as error:
        one.left_out = str(error)
        yield None
        return
    try:
        if setup.verified.fell_back is not None:
            one.left_out = setup.verified.fell_back
            yield None
        else:
            yield setup
    finally:
        setup.verified.engine.close()
