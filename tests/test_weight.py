"""The weight of the packages, whose ceiling rises only by an equal cut elsewhere, and the way of a frame."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CEILINGS = {  # files, lines, statements without docstrings
    "edge": (170, 30_000, 16_000),
    "train": (75, 12_000, 6_200),
    "export": (24, 3_300, 1_650),
    "bench": (50, 7_000, 3_700),
    "heatline": (10, 1_200, 500),
}


def statements(path: Path) -> int:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
        for node in found
    )


ROOMS = ["cameras", "inspection", "delivery", "monitor"]


@pytest.mark.parametrize("package", CEILINGS)
def test_a_package_is_under_its_ceiling(package: str) -> None:
    files, lines, most = CEILINGS[package]
    paths = [path for path in (ROOT / package).rglob("*.py") if not path.is_symlink()]
    assert len(paths) <= files
    assert sum(path.read_text().count("\n") for path in paths) <= lines
    assert sum(map(statements, paths)) <= most


def test_a_frame_meets_at_most_twelve_modules_in_the_order_of_the_rooms() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    way = re.findall(r"^[0-9]+\. `(edge/[a-z_/]+\.py)`", text, re.MULTILINE)
    assert 10 <= len(way) <= 12
    assert [name for name in way if not (ROOT / name).is_file()] == []
    rooms = [name.split("/")[1] for name in way if name.split("/")[1] in ROOMS]
    assert rooms == sorted(rooms, key=ROOMS.index)
    diagram = text.split("```")[1::2]
    assert [Path(name).stem for name in way if not any(Path(name).stem in each for each in diagram)] == []
