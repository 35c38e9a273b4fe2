"""The wheel without extras, in an environment of its own, as a line PC has it."""

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

from heatline.edge.errors import MissingExtraError
from heatline.edge.util.extras import MODULES, extra_of, missing_extra, require_extra

ROOT = Path(__file__).parents[1]
EXPECTED = {
    "train boards": "train",
    "train --products boards": "train",
    "search data=boards": "train",
    "study boards": "train",
    "evaluate boards.bundle --data boards": "train",
    "models": "train",
    "export runs/boards --to b.bundle": "export",
    "retrain line.toml --data boards --out new": "export",
    "view line.toml": "view",
    "bridge mqtt line.toml": "mqtt",
    "bridge opcua line.toml": "opcua",
    "archive inspect boards.bundle boards --out found": "cluster",
    "bench flops": "train",
    "bench map-cost": "export",
    "bench recipes --data boards": "train",
    "bench peers": "peers",
    "bench report": "bench",
    "check rtsp.toml": "rtsp",
}
"""The extra that each command names if it is not installed."""
SENTENCES = (
    *("journal show line.toml", "evidence list line.toml", "bridge modbus line.toml"),
    *("bundle sign boards.bundle --key none", "bench startup none", "bench tune none line.toml"),
)
"""Without a running line and its files, these end with a sentence."""
FUNCTIONS = {"train_model": "train", "export_bundle": "export"}
"""The same of functions."""
WALK = """
import contextlib, io, sys
import click
import heatline as api
from heatline.edge.cli.main import heatline, run

def commands(command, words=()):
    yield words
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                yield from commands(command.get_command(context, name), (*words, name))

def call_from_python(function, *given, **named):
    try:
        function(*given, **named)
    except api.MissingExtraError as error:
        print(function.__name__, 10, f"heatline: {error}", sep="|")

call_from_python(api.train_model, "boards", out="runs/boards")
call_from_python(api.export_bundle, "runs/boards", to="b.bundle")
walked = list(commands(heatline))
assert len(walked) > 50, "not all commands were found"
for call in [*([*words, "--help"] for words in walked), *(line.split() for line in sys.argv[1:])]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run(call)
    print(" ".join(call), code, *errors.getvalue().splitlines(), sep="|")
"""
LINE = """
bundle = "boards.bundle"
allow_unsigned = true

[[cameras]]
name = "top"
%s

[events]
bind = "ipc://events"

[journal]
folder = "journal"
bind = "ipc://journal"

[mqtt]
broker = "mqtt://127.0.0.1:1"
allow_plaintext = true

[opcua]
listen = "127.0.0.1:4840"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what it requires without extras."""
    folder = tmp_path_factory.mktemp("plain")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    assert {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "heatline",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)  # as pip does, which takes longer
    for name in required_by("heatline"):
        for file in distribution(name).files or ():
            link = packages / file.parts[0]
            if file.parts[0] != ".." and not link.exists():
                link.symlink_to(str(distribution(name).locate_file(file.parts[0])))
    return python


def required_by(name: str) -> set[str]:
    """Return the names of all distributions that another requires without extras."""
    wanted, found = [name], set[str]()
    while wanted:
        for requirement in map(Requirement, distribution(wanted.pop()).requires or ()):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and requirement.name not in found:
                found.add(requirement.name)
                wanted.append(requirement.name)
    return found


def test_every_command_answers_or_names_its_extra(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "boards.bundle").symlink_to(ROOT / "examples" / "drawn_boards" / "bundle")
    for label in ("good", "defective"):
        (tmp_path / "boards" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "boards" / label / f"{label}.png"), np.zeros((300, 300, 3), np.uint8))
    (tmp_path / "line.toml").write_text(LINE % 'kind = "pattern"')
    (tmp_path / "rtsp.toml").write_text(LINE % 'kind = "rtsp"\nurl = "rtsp://127.0.0.1:1/x"')
    works = "data show boards", "bundle verify boards.bundle", "check line.toml", "cameras list"
    calls = [*EXPECTED, *works, *SENTENCES]
    done = subprocess.run([installed, "-W", "error", "-c", WALK, *calls], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    answers = {call: (int(code), said) for call, code, *said in lines}
    for call, (code, said) in answers.items():
        if call in SENTENCES:
            assert (code in (0, 1, 10), bool(said)) == (False, True), call
        elif call not in EXPECTED | FUNCTIONS:
            assert code == 0, (call, said)
    for call, extra in (EXPECTED | FUNCTIONS).items():
        sentence = f" needs the extra {extra}: pip install 'heatline[{extra}]'"
        code, said = answers[call]
        assert (code, len(said), said[0].endswith(sentence)) == (10, 1, True), (call, said)


def test_a_program_beside_files_named_as_our_packages_runs(installed: Path, tmp_path: Path) -> None:
    """The README's example, in the folder of a user who has modules of these names."""
    for name in ("edge.py", "train.py", "export/__init__.py", "bench.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('a file of the user ran')")
    (tmp_path / "boards.bundle").symlink_to(ROOT / "examples" / "drawn_boards" / "bundle")
    (tmp_path / "new-boards" / "images").mkdir(parents=True)
    board = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "new-boards" / "images" / "board_00000.png"), board)
    example = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(example)
    done = subprocess.run([installed, "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("GOOD", "DEFECT", "NO_VERDICT")


def test_a_missing_module_names_its_extra_and_any_other_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "mqtt", ("not_installed",))
    with pytest.raises(MissingExtraError, match=r"this command needs the extra mqtt: pip install 'heatline\[mqtt\]'"):
        require_extra("mqtt")
    assert str(extra_of(ModuleNotFoundError(name="not_installed.part"))) == str(missing_extra("mqtt"))
    with pytest.raises(ModuleNotFoundError):
        extra_of(ModuleNotFoundError(name="numpy"))
