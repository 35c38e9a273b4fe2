"""The search: all candidates a little, and the better half of them again for twice as long, until one is left.

Each round takes about as long as the one before. What comes first in one round comes last in the next, so that a
machine that grows warm favours nobody.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
from msgspec.structs import replace

from bench.tune.shown import Shown
from bench.tune.trial import Answers, Trial
from edge.bundle.golden import GoldenTilesError
from edge.config import LineConfig
from edge.config.engine import EngineConfig
from edge.errors import EngineError
from edge.inspection.setup import Setup
from edge.service.loading import prepare

HEADROOM = 0.85
"""A rate is sustained at no more than this share of the highest."""
FAR_BEHIND = 0.6
"""Of the highest rate of all: what is slower at first is not looked at any further, while enough are left."""
ENOUGH = 4
ALIKE = 1.03
"""Latencies within this are the same; then the one with fewer threads is better."""
RANKED_AT = 90
"""Percentile of the latencies: of the few frames of a search, a higher one is that of a single frame."""


class Tried(msgspec.Struct, kw_only=True):
    """What was seen of one candidate."""

    engine: EngineConfig
    times_as_fast: list[float] = []
    """Of the asked rate: highest rate, in each round."""
    latencies_ms: list[float] = []
    """Of all frames that were shown one at a time."""
    left_out: str | None = None
    """Why it cannot be used on this machine."""

    @property
    def fastest(self) -> float:
        """Median of the highest rates, as times the asked one."""
        return float(np.median(self.times_as_fast)) if self.times_as_fast else 0.0

    @property
    def sustains(self) -> bool:
        """Whether the asked rate leaves headroom to the highest."""
        return self.fastest * HEADROOM >= 1

    def latency_ms(self, percentile: float = RANKED_AT) -> float:
        """Of a frame by itself; infinite where none was shown so."""
        return float(np.percentile(self.latencies_ms, percentile)) if self.latencies_ms else math.inf

    def in_words(self) -> str:
        """What was seen so far."""
        if self.left_out is not None:
            return f"left out: {self.left_out}"
        words = [f"{self.fastest:.2f} times the rate"]
        if self.latencies_ms:
            words = [f"p50 {self.latency_ms(50):.1f} ms, p90 {self.latency_ms(90):.1f} ms", *words]
        return ", ".join(words)


def search(
    tried: Sequence[Tried],
    config: LineConfig,
    shown: Sequence[Shown],
    answers: Answers,
    *,
    seconds: float,
    report_line: Callable[[str], None],
) -> Tried | None:
    """The best of the candidates, each of which is filled in; None: none can be used.

    Args:
        seconds: that one of them is looked at in the first round.
    Raises:
        BundleError, ConfigError: the bundle cannot be used at all.
        BenchError: settings that compute in the same precision do not answer the same.
    """
    left = list(tried)
    report_line(f"{len(left)} settings: how fast is each at the most?")
    refused: dict[tuple[str, str, str], str] = {}
    for one in left:
        of_its_kind = one.engine.kind, one.engine.device, one.engine.precision
        # What a device cannot compute in, it cannot with other numbers either: the first one that is tried tells.
        one.left_out = refused.get(of_its_kind)
        if one.left_out is None:
            with opened(one, config) as setup:
                if setup is not None:
                    one.times_as_fast.append(Trial(setup, shown, answers).times_as_fast(seconds / 2))
        if one.left_out is not None:
            refused[of_its_kind] = one.left_out
        report_line(f"  {one.engine}: {one.in_words()}")
    left = sorted((one for one in left if one.left_out is None), key=lambda one: -one.fastest)
    best = max((one.fastest for one in left), default=0.0)
    left = [one for place, one in enumerate(left) if place < ENOUGH or one.fastest >= FAR_BEHIND * best]
    while len(left) > 1:
        report_line(f"{len(left)} settings: how long does a frame take, where they keep up with the rate?")
        for one in left:
            with opened(one, config) as setup:
                if setup is not None:
                    trial = Trial(setup, shown, answers)
                    one.times_as_fast.append(trial.times_as_fast(seconds / 2))
                    if one.sustains:
                        one.latencies_ms += trial.alone_ms(seconds)
            report_line(f"  {one.engine}: {one.in_words()}")
        left = rank([one for one in left if one.left_out is None])
        left = left[: math.ceil(len(left) / 2)][::-1]
        seconds *= 2
    return left[0] if left else None


def rank(tried: Sequence[Tried]) -> list[Tried]:
    """The best first: of those that sustain the rate the one with the lowest latency, of others the fastest."""
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
    """All that frames are inspected by, compiled and verified as the line does it; None where that cannot be.

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
