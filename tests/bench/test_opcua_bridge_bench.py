"""The bench of the OPC UA bridge times every result, and notices a wrong one."""

import pytest

from heatline.bench.opcua_bridge import latencies_ms, measure_bridge
from heatline.edge.errors import BenchError


@pytest.mark.parametrize("received", [["a"], ["a", "b", "b"], ["b", "a"], ["a", "c"]])
def test_a_result_that_is_missing_or_out_of_order_ends_the_bench(received: list[str]) -> None:
    committed = {"a": 1.0, "b": 2.0}
    assert latencies_ms(committed, [("a", 1.5), ("b", 2.25)]) == [500.0, 250.0]
    with pytest.raises(BenchError, match="or in another order"):
        latencies_ms(committed, [(each, 3.0) for each in received])


@pytest.mark.long
def test_every_result_reaches_a_secured_client_once() -> None:
    found = measure_bridge(per_s=100, seconds=0.5)
    assert found.results == 50
    assert 0 < found.latency_ms.p50 <= found.latency_ms.most
