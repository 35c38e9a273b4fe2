"""Packages import one way: edge <- train <- export <- bench, heatline of all but bench, files in no circle. The line PC
needs no torch, a start only what it uses.
"""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import COLLECTED

ROOT = Path(__file__).parents[1]
PACKAGES = ["edge", "train", "export", "bench", "heatline"]
"""Each package may import the packages before it."""
TESTS = Path(__file__).parent
FILES = sorted(path for package in PACKAGES[:4] for path in (ROOT / package).rglob("*.py"))
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
MISTAKES = """
from heatline.edge.cli.main import run
for code, call in (
    (3, ["train", "data=x", "recipe.stepz=1"]),
    (9, ["train", "/nowhere"]),
    (9, ["train", "edge"]),
    (9, ["export", "/nowhere", "--to", "x"]),
    (9, ["evaluate", "/nowhere"]),
):
    assert run(call) == code, call
"""
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
        (MISTAKES, NOT_BEFORE_AN_ERROR),
        pytest.param(DEFAULT_TRAINING, LIGHTNING, marks=pytest.mark.long),  # it imports torch
    ],
    ids=["all of edge", "commands for data", "start of a line", "a client", "mistakes of a user", "a default training"],
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
    for name in {name for path in files for name in modules_imported_by(path)}:
        own = name.startswith(("heatline.edge.errors", "heatline.edge.wire"))
        assert own or name.partition(".")[0] in {*sys.stdlib_module_names, "msgspec"}, name


def test_no_files_import_each_other_in_a_cycle() -> None:
    """Also within functions."""
    of = {".".join(["heatline", *path.relative_to(ROOT).with_suffix("").parts]): path for path in FILES}
    of |= {name.removesuffix(".__init__"): path for name, path in of.items()}
    graph = dict[Path, set[Path]]()
    for path in FILES:
        names = set[str]()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = (f"{node.module}.{alias.name}" for alias in node.names)
                names |= {name if name in of else str(node.module) for name in full}
        graph[path] = {of[name] for name in names & of.keys()} - {path}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES) > 200


@pytest.mark.parametrize("path", [path.relative_to(ROOT) for path in FILES if ">>> " in path.read_text()], ids=str)
def test_the_examples_of_docstrings_are_true(path: Path) -> None:
    found = doctest.testmod(importlib.import_module(".".join(("heatline", *path.with_suffix("").parts))))
    assert (found.attempted > 0, found.failed) == (True, 0)


# The tests: what a machine lacks, and the pairs of long and short forms.

WITHOUT = """
import pytest
from tests import needs
needs.PACKAGES = dict.fromkeys(needs.PACKAGES, "/nowhere")
pytest.main(["-p", "no:cacheprovider", "tests/systemd/test_unit.py", "-k", "shellcheck or exposed"])
"""


def test_what_the_machine_lacks_is_one_line() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    (line,) = (line for line in result.stdout.splitlines() if "skipped:" in line)
    assert line.endswith(" Debian packages are missing: apt install shellcheck systemd (.ci/run installs them)")


def functions(items: list[pytest.Item]) -> set[str]:
    """Return the tests as the tables write them: file in tests/, and function."""
    return {f"{item.path.relative_to(TESTS)}::{getattr(item, 'originalname', item.name)}" for item in items}


def test_each_long_test_has_a_short_form_that_the_readme_names(request: pytest.FixtureRequest) -> None:
    readme = (TESTS / "README.md").read_text()
    pairs = re.findall(r"^\| [^|]+ \| `([\w/.]+::\w+)`[^|]* \| `([\w/.]+::\w+)`[^|]* \|$", readme, re.MULTILINE)
    with_both_forms = set(re.findall(r"^\| `([\w/.]+\.py)` \|", readme, re.MULTILINE))
    collected = request.config.stash[COLLECTED]
    long = functions([item for item in collected if item.get_closest_marker("long")])
    short = functions([item for item in collected if not item.get_closest_marker("long")])
    seen = {name.partition("::")[0] for name in long | short}  # only rows of collected files are checked
    listed = {name for _, name in pairs if name.partition("::")[0] in seen}
    assert listed == long - short, "pairs of two tests"
    assert {name for name, _ in pairs if name.partition("::")[0] in seen} <= short, "siblings"
    assert with_both_forms & seen == {name.partition("::")[0] for name in long & short}, "tests that have both forms"
