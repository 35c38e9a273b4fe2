"""Packages import one way: edge <- train <- export <- bench, heatline of all but bench, files in no circle. The line PC
needs no torch, a start only what it uses. No package is heavier than its ceiling, which rises only by an equal cut
elsewhere; a frame meets few modules.
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
ROOMS = ["cameras", "inspection", "delivery", "monitor"]
CEILINGS = {  # files, lines, statements without docstrings
    "edge": (170, 30_000, 16_000),
    "train": (75, 12_000, 6_200),
    "export": (24, 3_300, 1_650),
    "bench": (50, 7_000, 3_700),
    "heatline": (10, 1_200, 500),
}
SHARED = ("heatline.edge.cameras.base", "heatline.edge.cameras.settings")
FILES = sorted(path for package in PACKAGES[:4] for path in (ROOT / package).rglob("*.py"))
EXTRAS = {"torch", "timm", "lightning", "torchmetrics", "optuna"}
NOT_AT_START = {"asyncio", "rich", "email", "openvino", "onnxruntime", "cryptography"}
"""What other commands, engines or signatures need: the start of a line waits for all that it imports."""

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
        (DATA_COMMANDS, EXTRAS),
        (START, NOT_AT_START),
        (CLIENT, NOT_IN_A_CLIENT),
        (MISTAKES, NOT_BEFORE_AN_ERROR),
        pytest.param(DEFAULT_TRAINING, LIGHTNING, marks=pytest.mark.long),  # it imports torch
    ],
    ids=["commands for data", "start of a line", "a client", "mistakes of a user", "a default training"],
)
def test_only_needed_modules_are_imported(code: str, forbidden: set[str]) -> None:
    what = "import sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{what}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) & forbidden == set()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imported(path: Path) -> frozenset[str]:
    """Full names of what a file imports, also within functions: modules, and names in modules."""
    found = set[str]()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def module_of(path: Path) -> str:
    return ".".join(["heatline", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_packages_to_its_left_and_no_tests(package: str) -> None:
    behind = {"bench"} if package == "heatline" else {*PACKAGES[PACKAGES.index(package) + 1 :]}
    forbidden = {"tests", *PACKAGES[:4], *(f"heatline.{each}" for each in behind)}  # `edge` is `heatline.edge`
    forbidden |= EXTRAS | {"heatline.api"} if package == "edge" else set()
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) >= 4
    for path in files:
        starts = {".".join(name.split(".")[:count]) for name in imported(path) for count in (1, 2)}
        assert starts & forbidden == set(), path


def test_only_tests_of_bench_import_bench() -> None:
    benches = "heatline.bench", "bench.", "tests.bench"
    for path in {*TESTS.rglob("*.py")} - {*(TESTS / "bench").rglob("*.py")}:
        assert [name for name in imported(path) if name.startswith(benches)] == [], path


def test_test_apparatus_is_not_installed() -> None:
    """Apparatus that kills processes and fills disks is in tests/system, which no package imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["heatline"]}
    assert [(ROOT / "heatline" / name).resolve() for name in PACKAGES[:4]] == [ROOT / name for name in PACKAGES[:4]]


def test_the_wire_is_a_leaf() -> None:
    files = sorted((ROOT / "edge" / "wire").rglob("*.py"))
    assert len(files) >= 5
    for name in {name for path in files for name in imported(path)}:
        own = name.startswith(("heatline.edge.errors", "heatline.edge.wire"))
        assert own or name.partition(".")[0] in {*sys.stdlib_module_names, "msgspec"}, name


def test_no_module_imports_what_a_library_keeps_private() -> None:
    for path in FILES:
        foreign = [name for name in imported(path) if not name.startswith(("heatline.", "__future__"))]
        assert [name for name in foreign if re.search(r"(^|\.)_", name)] == [], path


def test_no_files_and_no_sub_packages_import_each_other_in_a_cycle() -> None:
    """Also within functions."""
    of = {module_of(path): path for path in FILES}
    files, rooms = dict[str, set[str]](), dict[str, set[str]]()
    for own, path in of.items():
        names = {name if name in of else name.rpartition(".")[0] for name in imported(path)} & of.keys() - {own}
        files[own] = names
        package, room = own.split(".")[1], ".".join(own.split(".")[:3])
        beside = {".".join(name.split(".")[:3]) for name in names if name.split(".")[1] == package}
        rooms.setdefault(room, set()).update(beside - {room, f"heatline.{package}"})
    assert len(list(TopologicalSorter(files).static_order())) == len(FILES) > 200
    assert len(list(TopologicalSorter(rooms).static_order())) > 30


@pytest.mark.parametrize("number", range(len(ROOMS)), ids=ROOMS)
def test_a_room_imports_no_room_behind_it_and_of_those_before_only_what_they_share(number: int) -> None:
    others = tuple(f"heatline.edge.{room}." for room in ROOMS if room != ROOMS[number])
    files = (ROOT / "edge" / ROOMS[number]).rglob("*.py")
    found = {name for path in files for name in imported(path) if name.startswith(others)}
    behind = tuple(f"heatline.edge.{room}." for room in ROOMS[number + 1 :])
    assert not {name for name in found if name.startswith(behind)}
    if ROOMS[number] != "monitor":  # it stands on the others
        assert {name for name in found if not name.startswith(SHARED)} == set()


def statements(path: Path) -> int:
    found = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.stmt)]
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
        for node in found
    )


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


@pytest.mark.parametrize("path", [path.relative_to(ROOT) for path in FILES if ">>> " in path.read_text()], ids=str)
def test_the_examples_of_docstrings_are_true(path: Path) -> None:
    found = doctest.testmod(importlib.import_module(".".join(("heatline", *path.with_suffix("").parts))))
    assert (found.attempted > 0, found.failed) == (True, 0)


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
    assert {name for _, name in pairs if name.partition("::")[0] in seen} == long - short, "pairs of two tests"
    assert {name for name, _ in pairs if name.partition("::")[0] in seen} <= short, "siblings"
    assert with_both_forms & seen == {name.partition("::")[0] for name in long & short}, "tests that have both forms"
