"""The numeric precision of a training."""

from pathlib import Path

import torch


def choose_precision(wanted: str, accelerator: str) -> tuple[str, str]:
    """Return the precision to use, by Lightning's name, and the reason as a phrase.

    bf16-mixed is autocast: weights, their updates, the map head and the loss stay f32. It is faster only if the
    processor has bf16 multiplication (a small CNN on 2 such cores: 33 tiles/s in f32, 48 in bf16); "auto" checks that.
    """
    if wanted != "auto":
        return wanted, "as trainer.precision says"
    if accelerator != "cpu" and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(False):
            return "bf16-mixed", "the GPU multiplies bf16"
        return "32-true", "the GPU does not multiply bf16"
    found = sorted(_cpu_flags() & {"avx512_bf16", "amx_bf16"})
    if found:
        return "bf16-mixed", f"the processor has {found[0]}"
    return "32-true", "the processor has neither avx512_bf16 nor amx_bf16"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
