"""Each stage of a 5 MP frame on its own, as `heatline bench stages` prepares it.

Grabbing begins with the trigger here, and publishing ends when the receipt is confirmed.
"""

from contextlib import ExitStack

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from heatline.bench.stages.prepared import Prepared
from heatline.bench.stages.stages import STAGES


@pytest.mark.parametrize("name", STAGES)
def bench_stage_5mp(benchmark: BenchmarkFixture, prepared: Prepared, name: str) -> None:
    with ExitStack() as at_end:
        stage = STAGES[name](prepared, at_end)
        stage.check(benchmark(stage.run))
        benchmark.extra_info |= {"tiles": len(prepared.grid)}
