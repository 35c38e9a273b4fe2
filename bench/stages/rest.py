"""Waiting until this process does nothing: a library's threads may go on for long after it has returned."""

import contextlib
import os
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.002
AT_REST = 0.1
"""Of a core, that is: less is the others' small change."""
WITHIN_SECONDS = 5.0


def rest() -> int:
    """Wait for it, but not for ever; returns the processor time that the waiting itself took, ns."""
    began_ns, give_up = time.thread_time_ns(), time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < give_up:
        cpu_ns, own_ns, at_ns = time.process_time_ns(), time.thread_time_ns(), time.monotonic_ns()
        time.sleep(LOOK_SECONDS)
        others_ns = time.process_time_ns() - cpu_ns - (time.thread_time_ns() - own_ns)
        if others_ns < AT_REST * (time.monotonic_ns() - at_ns) and not _others_want_to_run():
            break
    return time.thread_time_ns() - began_ns


def _others_want_to_run() -> bool:
    """Whether another thread has a core or waits for one, which on a busy machine it may do for long."""
    own = threading.get_native_id()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            state = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
            if int(thread) != own and state == "R":
                return True
    return False
