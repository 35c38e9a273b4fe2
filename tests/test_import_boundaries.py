"""Packages import one way: edge <- train <- export <- bench; and the line PC needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["edge", "train", "export", "bench"]
"""Each may import those before it."""
EXTRAS = ["torch", "timm", "lightning", "hydra", "torchmetrics", "optuna"]
FOREIGN = ["torch", "timm", "lightning", "hydra", "train", "export", "bench"]

IMPORT_ALL_OF_EDGE = f"""
import importlib, pkgutil, sys
import edge
names = [module.name for module in pkgutil.walk_packages(edge.__path__, "edge.")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({{name.partition(".")[0] for name in sys.modules}} & set({FOREIGN})))
"""


def test_every_module_of_edge_can_be_imported_without_torch_and_what_else_the_line_pc_lacks() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL_OF_EDGE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    modules, *foreign = result.stdout.split()
    assert int(modules) >= 30, "not all modules were found"
    assert foreign == []


WHAT_DATA_COMMANDS_RUN = f"""
import sys
import train.boards, train.commands.data, train.contact_sheet, train.survey
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set({EXTRAS})))
"""


def test_the_commands_for_data_need_no_extra() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", WHAT_DATA_COMMANDS_RUN],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def imported_by(path: Path) -> set[str]:
    """Top-level names of all that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import cannot leave its own top-level package.
            names.add(path.relative_to(ROOT).parts[0] if node.level else str(node.module).partition(".")[0])
    return names


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_nothing_from_packages_to_the_right_of_its_own(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    right_of_it = set(PACKAGES[PACKAGES.index(package) + 1 :])
    assert imported_by(path) & right_of_it == set()


@pytest.mark.parametrize(
    "path", [path for path in files() if (ROOT / "edge") in path.parents], ids=lambda path: path.name
)
def test_a_module_of_edge_imports_no_training_library_anywhere(path: Path) -> None:
    assert imported_by(path) & set(FOREIGN) == set()


def test_what_is_shipped_imports_no_tests() -> None:
    assert [path for path in files() if "tests" in imported_by(path)] == []
