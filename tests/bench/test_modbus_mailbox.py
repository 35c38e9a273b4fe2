"""The bench of the Modbus bridge's hand-shake takes every result, and notices a wrong one."""

import pytest

from heatline.bench import modbus_mailbox
from heatline.bench.modbus_mailbox import _Plc, measure_mailbox
from heatline.edge.bridge.modbus.registers import MAILBOX
from heatline.edge.errors import BenchError


def test_every_result_is_taken_once() -> None:
    found = measure_mailbox(results=20, latencies=5)
    assert found.results == 20
    assert found.per_second_two_requests > 0
    assert found.per_second_one_request > 0
    assert 0 < found.request_ms.p50 <= found.latency_ms.p50


def test_a_result_that_is_left_out_ends_the_bench() -> None:
    class Reply:
        registers = [0] * modbus_mailbox.WORDS

    Reply.registers[MAILBOX.addresses["kind"] - MAILBOX.address] = 1
    with pytest.raises(BenchError, match="after result 0"):
        _Plc(None)._shows_next(Reply())
