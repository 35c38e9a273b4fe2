"""What the micro-benches share: a bundle and a 5 MP frame."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle import Bundle, open_bundle

SHIPPED = Path(__file__).parents[1] / "examples" / "drawn_boards" / "bundle"
FRAME_HW = (2048, 2448)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", type=Path, default=SHIPPED, help="bundle to bench; default: the demo's")


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return open_bundle(request.config.getoption("--bundle"))


@pytest.fixture(scope="session")
def frame() -> NDArray[np.uint8]:
    """RGB noise [2048, 2448, 3]: 120 tiles."""
    return np.random.default_rng(0).integers(0, 256, (*FRAME_HW, 3), np.uint8)
