"""Packages import one way: edge <- train <- export <- bench, heatline of all but bench, files in no circle. The line PC
needs no torch, a start only what it uses.
"""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["edge", "train", "export", "bench", "heatline"]
"""Each package may import the packages before it."""
EXTRAS = {"torch", "timm", "lightning", "torchmetrics", "optuna"}
FOREIGN = EXTRAS | {"heatline.train", "heatline.export", "heatline.bench", "heatline.api"}
NOT_AT_START = {"asyncio", "rich", "email", "openvino", "onnxruntime", "cryptography"}
"""What other commands, engines or signatures need: the start of a line waits for all that it imports."""

IMPORT_ALL_OF_EDGE = """
import importlib, pkgutil, heatline.edge
names = [module.name for module in pkgutil.walk_packages(heatline.edge.__path__, "heatline.edge.")]
assert len(names) >= 30, "not all modules were found"
for name in names:
    importlib.import_module(name)
"""
DATA_COMMANDS = """
import examples.drawn_boards.boards
import heatline.train.commands.data, heatline.train.summary
"""
START = "import heatline.edge.cli.main, heatline.edge.cli.line, heatline.edge.service.lifecycle"
DEFAULT_TRAINING = "import heatline.train.compose, heatline.train.fit"
WRONG_TRAINING = "from heatline.edge.cli.main import run; assert run(['train', 'data=x', 'recipe.stepz=1']) == 3"
NO_PICTURES = "from heatline.edge.cli.main import run; assert run(['train', '/nowhere']) == 9"
NO_SUBFOLDERS = "from heatline.edge.cli.main import run; assert run(['train', 'edge']) == 9"
NO_RUN = "from heatline.edge.cli.main import run; assert run(['export', '/nowhere', '--to', 'x']) == 9"
NO_MODEL = "from heatline.edge.cli.main import run; assert run(['evaluate', '/nowhere']) == 9"
CLIENT = "import heatline; heatline.subscribe('ipc://@heatline-nobody').close(); import heatline.edge.delivery.client"
NOT_IN_A_CLIENT = {"numpy", "cv2", "asyncio", "rich", "click"}
"""A client needs the protocol and ZeroMQ, and no module that inspects."""
NOT_BEFORE_AN_ERROR = {"torch", "timm", "lightning"}
"""What takes seconds to import: a user's mistake is reported before."""
LIGHTNING = {"lightning", "torchmetrics"}
"""What only the recipes that train the whole network use: seconds of a training of a minute."""


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (IMPORT_ALL_OF_EDGE, FOREIGN),
        (DATA_COMMANDS, EXTRAS),
        (START, NOT_AT_START),
        (CLIENT, NOT_IN_A_CLIENT),
        (WRONG_TRAINING, NOT_BEFORE_AN_ERROR),
        (NO_PICTURES, NOT_BEFORE_AN_ERROR),
        (NO_SUBFOLDERS, NOT_BEFORE_AN_ERROR),
        (NO_MODEL, NOT_BEFORE_AN_ERROR),
        (NO_RUN, NOT_BEFORE_AN_ERROR),
        pytest.param(DEFAULT_TRAINING, LIGHTNING, marks=pytest.mark.long),  # it imports torch
    ],
    ids=[
        "all of edge",
        "commands for data",
        "start of a line",
        "a client",
        "a wrong training",
        "a training without pictures",
        "a training on another folder",
        "an evaluation without a model",
        "an export without a run",
        "training by the default recipe",
    ],
)
def test_only_needed_modules_are_imported(code: str, forbidden: set[str]) -> None:
    what = "import sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{what}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert loaded & forbidden == set()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_at_once(path: Path) -> set[str]:
    """Full names of what a file imports as it is imported, not later, in a function; names in modules among them."""
    found, nodes = set[str](), [*parsed(path).body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            nodes += ast.iter_child_nodes(node)
    return found


def test_no_module_that_the_default_training_imports_names_lightning() -> None:
    waiting, seen = {"heatline.train.compose", "heatline.train.fit"}, set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        folder = ROOT / name.replace(".", "/")
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if path.is_file():
            waiting |= {*imported_at_once(path), name.rpartition(".")[0]} - seen - {""}
    assert {"torch", "timm", "heatline.train.dense.train"} <= seen
    assert {name.partition(".")[0] for name in seen} & LIGHTNING == set()


def imported_by(path: Path) -> set[str]:
    """Packages that a file imports, also within functions: of heatline, or top-level names of others."""
    names: set[str] = set()
    for name in modules_imported_by(path):
        first, *inner = name.split(".")
        assert first not in PACKAGES[:4], f"{path} imports {name}; it is heatline.{name}"
        names.add(inner[0] if first == "heatline" and inner and inner[0] in PACKAGES else first)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_packages_to_its_left_and_no_tests(package: str) -> None:
    forbidden = {"tests", *PACKAGES[PACKAGES.index(package) + 1 :]} | (EXTRAS if package == "edge" else set())
    forbidden |= {"bench"} if package == "heatline" else set()
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) >= 4
    wrong = {str(path.relative_to(ROOT)): imported_by(path) & forbidden for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_test_apparatus_is_not_installed() -> None:
    """Apparatus that kills processes and fills disks is in tests/system, which no package imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["heatline"]}
    assert [(ROOT / "heatline" / name).resolve() for name in PACKAGES[:4]] == [ROOT / name for name in PACKAGES[:4]]


def modules_imported_by(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
    return found


def test_the_wire_is_a_leaf() -> None:
    files = sorted((ROOT / "edge" / "wire").rglob("*.py"))
    assert len(files) >= 5
    for path in files:
        of_others = {
            name
            for name in modules_imported_by(path)
            if name.partition(".")[0] not in {*sys.stdlib_module_names, "msgspec"}
        }
        ours = ("heatline.edge.errors", "heatline.edge.wire")
        assert all(name.startswith(ours) for name in of_others), path


def files_imported_by(path: Path) -> set[Path]:
    """Files of this project that a file imports, also within functions."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            places = [ROOT.joinpath(*parts[:count]) for count in range(len(parts), 0, -1)]
            files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
            found |= {file.resolve() for file in [file for file in files if file.exists()][:1]}
    return found - {path}


def test_no_files_import_each_other_in_a_cycle() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    order = list(TopologicalSorter({path: files_imported_by(path) for path in files}).static_order())
    assert len(order) >= len(files) > 200
