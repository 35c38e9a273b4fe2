"""What OpenVINO computes on: the processor, or a graphics or neural unit of Intel's beside it.

One device by name, and never AUTO, MULTI or HETERO: these change over by themselves, after the golden tiles as well.
"""

import ctypes
from functools import cache

import openvino as ov

from edge.errors import EngineError
from edge.inference.engine import PROCESSOR

_SS_DISABLE = 2


@cache
def the_core() -> ov.Core:
    """OpenVINO's, one for the life of the process.

    Its plugin for the processor gives the thread that loads it a stack for signals, and unmaps that with the last that
    uses the plugin, on whatever thread that is. The next signal would find no stack, and end the process by SIGSEGV: a
    line that had changed over, at its next reload.
    """
    core = ov.Core()
    # Weights in use must not change, nor end in SIGBUS, where somebody writes over the bundle's files.
    core.set_property({"ENABLE_MMAP": False})
    return core


def give_up_stack_for_signals() -> None:
    """Have signals handled on this thread's own stack: after others' cores, which came and went on it.

    Each takes its stack away again and puts back the one before it, which may be gone by then.
    """
    disabled = _SignalStack(None, _SS_DISABLE, 0)
    if ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(disabled), None):
        raise OSError(ctypes.get_errno(), "sigaltstack")


class _SignalStack(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def devices() -> list[str]:
    """All that OpenVINO finds on this machine."""
    return list(the_core().available_devices)


def require_device(core: ov.Core, device: str) -> None:
    """See that a device is there.

    Args:
        device: such as GPU, the first of its kind, or GPU.1.
    Raises:
        EngineError: it is not.
    """
    there = list(core.available_devices)
    if not any(device in (name, name.split(".")[0], f"{name}.0") for name in there):
        raise EngineError(
            f"engine.device is {device}, OpenVINO finds {', '.join(there) or 'none'} on this machine; set another "
            f"engine.device, or install the driver of {device}"
        )


def settings_on(device: str, hint: str, *, threads: int, streams: int) -> dict[str, object]:
    """How OpenVINO is to compute on a device.

    Args:
        hint: the precision.
        threads: of the processor; other devices know none.
        streams: 0: one per thread; on other devices as many as they find best.
    """
    settings: dict[str, object] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,  # never by default: some processors would take bf16 unasked
    }
    if device == PROCESSOR:
        return settings | {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams or threads}
    return settings | ({"NUM_STREAMS": streams} if streams else {})
