"""Fixtures of the micro-benches, a bundle and a 5 MP frame, and the check that compared runs have the same machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heatline.bench.command import SHIPPED_BUNDLE
from heatline.bench.machine import machine, machine_kind
from heatline.bench.stages import Prepared, prepare
from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine

FRAME_HW = (2048, 2448)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", type=Path, default=SHIPPED_BUNDLE, help="bundle to measure; default: the demo's")


def pytest_benchmark_generate_machine_info() -> dict[str, object]:
    """Describe the machine by the values that must agree between two runs.

    pytest-benchmark's own description changes from day to day, and takes a second to create.
    """
    kind: dict[str, object] = msgspec.json.decode(msgspec.json.encode(machine_kind(machine())))
    return kind


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(
    machine_info: Mapping[str, object], compared_benchmark: Mapping[str, Any]
) -> None:
    """Refuse, before the measurement, to compare runs of two machines."""
    other = compared_benchmark["machine_info"]
    differ = [f"{key} {other.get(key)}, here {here}" for key, here in machine_info.items() if other.get(key) != here]
    if differ:
        raise pytest.UsageError(
            f"the saved run was measured on another machine ({'; '.join(differ)}), and runs of two machines cannot be "
            "compared; measure here first, with --benchmark-autosave"
        )


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return open_bundle(request.config.getoption("--bundle"))


@pytest.fixture(scope="session")
def prepared(bundle: Bundle) -> Prepared:
    """A frame of 2448x2048 px: 120 tiles of 224."""
    return prepare(bundle, open_verified_engine(bundle), FRAME_HW)
