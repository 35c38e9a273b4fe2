"""The weight of the packages: a ceiling rises only by an equal cut elsewhere; sub-packages import one way."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CEILINGS = {  # files, statements without docstrings
    "edge": (170, 18_500),
    "train": (75, 8_200),
    "export": (24, 1_850),
    "bench": (50, 3_700),
    "heatline": (10, 500),
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


@pytest.mark.parametrize("package", CEILINGS)
def test_a_package_is_under_its_ceiling(package: str) -> None:
    files, most = CEILINGS[package]
    assert len(trees(package)) <= files
    assert sum(map(statements, trees(package).values())) <= most


@pytest.mark.parametrize("package", [name for name in CEILINGS if name != "heatline"])
def test_no_two_sub_packages_import_each_other(package: str) -> None:
    def room(name: str) -> str:
        return name.removeprefix("heatline.").split(".")[1]

    arrows = {
        (room(".".join(path.relative_to(ROOT).with_suffix("").parts)), room(name))
        for path, tree in trees(package).items()
        for name in imported(tree)
        if name.startswith(f"heatline.{package}.")
    }
    assert not {(a, b) for a, b in arrows if a < b and (b, a) in arrows}


def test_no_module_imports_what_a_library_keeps_private() -> None:
    assert not [
        f"{path.relative_to(ROOT)}: {name}"
        for package in CEILINGS
        for path, tree in trees(package).items()
        for name in imported(tree)
        if not name.startswith("heatline.") and any(part.startswith("_") for part in name.split(".")[:-1])
    ]
