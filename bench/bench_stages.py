"""Every stage of a 5 MP frame's way by itself, as `heatline bench stages` prepares it.

Grabbing begins with the trigger here, and publishing ends once word of the receipt is back.
"""

from contextlib import closing
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.stages.prepared import Prepared
from bench.stages.stages import STAGES


@pytest.mark.parametrize("name", STAGES)
def bench_stage_5mp(benchmark: BenchmarkFixture, prepared: Prepared, name: str, tmp_path: Path) -> None:
    with closing(STAGES[name](prepared, tmp_path)) as stage:
        benchmark(stage.run)
        stage.check()
        benchmark.extra_info |= {"tiles": len(prepared.grid), "frames": stage.frames}
