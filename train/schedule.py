"""The learning-rate schedule of a training."""

import math


def cosine(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the highest learning rate: a linear warm-up, then half a cosine down to zero.

    Args:
        steps: total number of steps.
        warmup: share of the steps in which the factor rises.
    """
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise))) / 2
