"""What a bridge knows of its line."""

import threading
from pathlib import Path

from heatline.edge.bridge.line_state import LineState
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.wire.events import Message
from tests.edge.followed_line import wait_until
from tests.edge.status_only_line import a_status


class StoppableClock:
    """A clock at which the thread that receives can be held, as a process is by SIGSTOP."""

    def __init__(self) -> None:
        self.now_s, self.reads = 0.0, 0
        self.runs = threading.Event()
        self.runs.set()
        self._reader = threading.current_thread()

    def __call__(self) -> float:
        if threading.current_thread() is not self._reader:
            self.reads += 1
            self.runs.wait()
        return self.now_s


def test_statuses_that_waited_for_a_stopped_bridge_do_not_make_the_line_ready(tmp_path: Path) -> None:
    address, clock = f"ipc://{tmp_path}/events", StoppableClock()
    publisher = Publisher(address)
    publisher.start()

    def publish(boot_id: str) -> None:
        publisher.send(Message(a_status(boot_id=boot_id * 32)))

    try:
        with LineState(address, clock=clock) as state:

            def hears(boot_id: str) -> bool:
                publish(boot_id)
                return state.status is not None and state.status.boot_id == boot_id * 32

            wait_until(lambda: hears("a"), "the line is heard")
            assert state.is_heard
            clock.runs.clear()
            before = clock.reads
            wait_until(lambda: clock.reads > before, "the bridge is stopped")
            for _ in range(3):
                publish("b")
            clock.now_s, before = 100.0, clock.reads
            clock.runs.set()
            wait_until(lambda: clock.reads > before + 5, "all statuses are read")
            assert not state.is_heard
            assert state.handshake().reason == "unreachable"
            wait_until(lambda: hears("c"), "the line is heard again")
            assert state.is_heard
    finally:
        publisher.close()
