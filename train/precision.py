"""Which numbers a training calculates with."""

from pathlib import Path
from typing import Literal

import torch


def choose_precision(wanted: Literal["auto", "f32", "bf16"]) -> tuple[Literal["f32", "bf16"], str]:
    """The precision to use, and why in words.

    bf16 is autocast: weights, their updates, the map head and the loss stay f32. It is faster only where the processor
    multiplies bf16 itself (a small CNN on 2 such cores: 33 tiles/s in f32, 48 in bf16), so "auto" looks there.
    """
    if wanted != "auto":
        return wanted, "as recipe.precision says"
    if torch.cuda.is_available():
        return ("bf16", "the GPU has it") if torch.cuda.is_bf16_supported(False) else ("f32", "the GPU has no bf16")
    found = sorted(_cpu_flags() & {"avx512_bf16", "amx_bf16"})
    if found:
        return "bf16", f"the processor has {found[0]}"
    return "f32", "the processor has neither avx512_bf16 nor amx_bf16"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
