"""The weight of the packages: a ceiling rises only by an equal cut elsewhere; sub-packages import one way."""

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
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


@cache
def trees(package: str) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in (ROOT / package).rglob("*.py") if not path.is_symlink()}


def statements(tree: ast.Module) -> int:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
        for node in found
    )


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ROOMS = ["cameras", "inspection", "delivery", "monitor"]
SHARED = {"heatline.edge.cameras.base", "heatline.edge.cameras.settings"}


@pytest.mark.parametrize("package", CEILINGS)
def test_a_package_is_under_its_ceiling(package: str) -> None:
    files, lines, most = CEILINGS[package]
    assert len(trees(package)) <= files
    assert sum(path.read_text().count("\n") for path in trees(package)) <= lines
    assert sum(map(statements, trees(package).values())) <= most


@pytest.mark.parametrize("package", [name for name in CEILINGS if name != "heatline"])
def test_no_sub_packages_import_each_other_in_a_circle(package: str) -> None:
    def room(name: str) -> str:
        return name.removeprefix("heatline.").split(".")[1]

    order = graphlib.TopologicalSorter[str]()
    for path, tree in trees(package).items():
        own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        imports = {room(name) for name in imported(tree) if name.startswith(f"heatline.{package}.")}
        order.add(own, *(imports - {own}))
    order.prepare()  # raises an error that names a circle


def test_no_module_imports_what_a_library_keeps_private() -> None:
    assert not [
        f"{path.relative_to(ROOT)}: {name}"
        for package in CEILINGS
        for path, tree in trees(package).items()
        for name in imported(tree)
        if not name.startswith("heatline.") and any(part.startswith("_") for part in name.split("."))
    ]


def way_of_a_frame() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^[0-9]+\. `(edge/[a-z_/]+\.py)`", text, re.MULTILINE)


def test_a_frame_meets_at_most_twelve_modules_in_the_order_of_the_rooms() -> None:
    way = way_of_a_frame()
    assert 10 <= len(way) <= 12
    assert [name for name in way if not (ROOT / name).is_file()] == []
    rooms = [name.split("/")[1] for name in way if name.split("/")[1] in ROOMS]
    assert rooms == sorted(rooms, key=ROOMS.index)
    diagram = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1::2]
    assert [Path(name).stem for name in way if not any(Path(name).stem in each for each in diagram)] == []


@pytest.mark.parametrize("number", range(len(ROOMS)), ids=ROOMS)
def test_a_room_imports_no_room_behind_it_and_of_those_before_only_what_they_share(number: int) -> None:
    others = tuple(f"heatline.edge.{room}." for room in ROOMS if room != ROOMS[number])
    found = {
        name
        for path, tree in trees("edge").items()
        if path.relative_to(ROOT).parts[1] == ROOMS[number]
        for name in imported(tree)
        if name.startswith(others)
    }
    behind = tuple(f"heatline.edge.{room}." for room in ROOMS[number + 1 :])
    assert not {name for name in found if name.startswith(behind)}
    if ROOMS[number] != "monitor":  # it stands on the others
        assert {name.rpartition(".")[0] for name in found} <= SHARED
