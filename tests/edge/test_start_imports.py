"""What a line imports to start: no more than it needs, as its start waits for all of it."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from zmq.utils.monitor import parse_monitor_message

from edge.delivery.happenings import read_happening

NOT_NEEDED = {"asyncio", "rich", "email", "openvino", "onnxruntime"}
"""Of other commands, or of an engine that is not asked for yet."""
STARTS = "import sys, edge.cli.main, edge.cli.run; print(*{name.partition('.')[0] for name in sys.modules})"


def test_a_line_starts_without_what_other_commands_need() -> None:
    result = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) & NOT_NEEDED == set()


@given(event=st.sampled_from([1, 2, 4, 128, 256, 512, 1024, 4096, 16384]), value=st.integers(0, 2**28))
def test_happenings_are_read_as_pyzmq_reads_them(event: int, value: int) -> None:
    parts = [event.to_bytes(2, sys.byteorder) + value.to_bytes(4, sys.byteorder), b"tcp://127.0.0.1:1"]
    expected = parse_monitor_message(parts)
    assert read_happening(parts) == (int(expected["event"]), int(expected["value"]))
