"""`make cameras`: its figures are measured with real faults, and all measurements run."""

import pytest

from heatline.edge.bundle import Bundle
from tests.edge.gv_cameras import need_aravis
from tests.system.cameras import FAULTS, KILLED, Kind, measure_cameras


@pytest.mark.parametrize(
    ("faults", "gone_s"), [({"pattern": [KILLED]}, [0.0]), pytest.param(FAULTS, [0.0, 0.2], marks=pytest.mark.long)]
)
def test_a_fault_is_timed_from_its_injection_to_the_alarm_and_to_the_next_inspected_frame(
    bundle: Bundle, faults: dict[Kind, list[str]], gone_s: list[float]
) -> None:
    if "genicam" in faults:
        need_aravis()
    found = measure_cameras(bundle, faults, gone_s)
    assert found.failed == {}
    assert [(one.kind, one.fault) for one in found.faults] == [(kind, one) for kind in faults for one in faults[kind]]
    assert found.faults[0].noticed_as == ["process"] * len(gone_s)
    assert all(one.noticed_ms.lowest > 0 < one.recovered_ms.lowest for one in found.faults)
