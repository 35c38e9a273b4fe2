"""A thread that computes is told from one that waits."""

import hashlib
import threading
import time

from heatline.edge.util.process import NamedThread, waits_for_processor

WITHIN_SECONDS = 20.0


def test_a_thread_that_computes_is_told_from_one_that_waits() -> None:
    begun, ended = threading.Event(), threading.Event()

    def compute() -> None:
        begun.set()
        while not ended.is_set():
            hashlib.sha256(bytes(10_000_000))  # without Python's lock

    computing, waiting = NamedThread("computes", compute), NamedThread("waits", ended.wait)
    assert not waits_for_processor(computing), "it has not started"
    computing.start()
    waiting.start()
    try:
        assert begun.wait(WITHIN_SECONDS)
        give_up = time.monotonic() + WITHIN_SECONDS
        while not waits_for_processor(computing) or waits_for_processor(waiting):
            assert time.monotonic() < give_up
    finally:
        ended.set()
        computing.join()
        waiting.join()
