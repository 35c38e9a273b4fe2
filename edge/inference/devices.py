"""The devices that OpenVINO computes on: the processor, or one of Intel's graphics or neural units.

A device is always named. AUTO, MULTI and HETERO are not used: they can change the device after the golden tiles.
"""

import ctypes
from functools import cache

import openvino as ov

from heatline.edge.errors import EngineError, PrecisionError
from heatline.edge.inference.engine import PROCESSOR


@cache
def shared_core() -> ov.Core:
    """Return OpenVINO's core, which lives as long as the process.

    OpenVINO's CPU plugin gives the thread that loads it a signal stack. When its last user is gone, it unmaps that
    stack, on any thread. The next signal would then end the process by SIGSEGV, e.g. when a line reloads after a
    changeover.
    """
    core = ov.Core()
    # If somebody overwrites the bundle's files, weights in use must not change or cause a SIGBUS.
    core.set_property({"ENABLE_MMAP": False})
    return core


def disable_signal_stack() -> None:
    """Handle signals on this thread's own stack again, after another library created and destroyed cores on it.

    Each core unmaps its signal stack and restores the previous one, which may no longer exist.
    """
    disabled = _SignalStack(None, 2, 0)  # SS_DISABLE
    if ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(disabled), None):
        raise OSError(ctypes.get_errno(), "sigaltstack")


class _SignalStack(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def devices() -> list[str]:
    """Return all devices that OpenVINO finds on this machine."""
    return list(shared_core().available_devices)


def require_device(core: ov.Core, device: str) -> None:
    """Raise an EngineError unless this machine has a device, such as GPU, the first of its kind, or GPU.1."""
    available = core.available_devices
    if not any(device in (name, name.split(".")[0], f"{name}.0") for name in available):
        raise EngineError(
            f"engine.device is {device}, OpenVINO finds {', '.join(available) or 'none'} on this machine; set another "
            f"engine.device, or install the driver of {device}"
        )


def computes_bf16(core: ov.Core, device: str) -> bool:
    """Return whether a device computes in bf16 itself; see `require_bf16`."""
    return "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def require_bf16(core: ov.Core, device: str) -> None:
    """Raise a PrecisionError unless a device computes in bf16 itself.

    Without such instructions OpenVINO computes in f32, or emulates bf16: that took three times as long as f32 on a
    processor with AVX-512 alone. It then reports the precision of the hint, so only the capabilities tell.
    """
    if not computes_bf16(core, device):
        raise PrecisionError(
            f"{'this processor' if device == PROCESSOR else device} has no bf16, OpenVINO would compute in f32 or "
            "emulate bf16; choose another precision"
        )


def settings_on(device: str, hint: str, *, threads: int, streams: int) -> dict[str, object]:
    """Return OpenVINO's settings for a device and a precision. Devices other than the processor ignore `threads`, and
    choose the number of streams themselves if it is 0.
    """
    settings: dict[str, object] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,  # always explicit: on some processors the default is bf16
    }
    if device == PROCESSOR:
        return settings | {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams or threads}
    return settings | ({"NUM_STREAMS": streams} if streams else {})
