"""The learning rate over a training."""

import math


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: a line up over the warm-up, then half a cosine down to zero."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise))) / 2
