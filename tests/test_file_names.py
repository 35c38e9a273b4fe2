"""Every command accepts paths that are not UTF-8, as they occur on cameras and old disks."""

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from tests.command import heatline
from tests.small_bundle import dark_square, white_frame

ODD = os.fsdecode(b"caf\xe9\xff")
"""A file name in Latin-1."""


def write_png(file: Path, rgb: Any) -> None:
    """Write a PNG. OpenCV's own `imwrite` fails on a name that is not UTF-8."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", rgb)[1].tobytes())


@pytest.fixture(scope="module")
def odd(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that commands read: bundle, pictures, keys, a line that has run, its journal."""
    folder = tmp_path_factory.mktemp("names") / ODD
    shutil.copytree(bundle.path, folder / f"bundle-{ODD}")
    (folder / "bundle").symlink_to(folder / f"bundle-{ODD}")  # what a line's file names is UTF-8, its folder need not
    (folder / "pictures").symlink_to(pictures := folder / f"pictures-{ODD}")
    for number in range(8):
        white = white_frame((64, 64)) - np.uint8(number)
        write_png(pictures / f"{number}-{ODD}.png", white)
        write_png(folder / "folder" / "good" / f"b{number % 4}_{number}{ODD}.png", white)
        write_png(folder / "folder" / "defective" / f"b{number % 4}_{number}{ODD}x.png", dark_square(white, 8, 8, 32))
    line = 'bundle = "bundle"\nallow_unsigned = true\n[[cameras]]\nkind = "folder"\nname = "top"\npath = "pictures"\n'
    tables = '[journal]\nfolder = "kept"\nbind = "ipc://{0}.j"\n[events]\nbind = "ipc://{0}.e"\n[commands]\nbind = "ipc://{0}.c"\n'
    (folder / f"line-{ODD}.toml").write_text(line + tables.format(folder.parent / "s"))
    for command in ("run {line}", "bundle keygen {odd}.key", "keys new {odd}.curve"):
        assert run(command, folder, folder) == 0, command
    return folder


def run(command: str, folder: Path, new: Path) -> int:
    """Run a command to its end and return its exit code. An unexpected exception is raised."""
    names = {
        "bundle": folder / f"bundle-{ODD}",
        "pictures": folder / f"pictures-{ODD}",
        "folder": folder / "folder",
        "line": folder / f"line-{ODD}.toml",
        "odd": folder / ODD,
        "none": folder / f"none-{ODD}",
        "new": new / ODD,
    }
    done = heatline(*(word.format(**names) for word in command.split()))
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("check {line}", 0),
        ("check {none}.toml", 3),
        ("inspect {bundle} {pictures} --out {new}", 0),
        ("bundle verify {bundle}", 0),
        ("bundle diff {bundle} {bundle}", 0),
        ("bundle keygen {new}", 0),
        ("bundle sign {bundle} --key {odd}.key", 0),
        ("bundle trust {odd}.key.pub --keys {new}", 4),  # its name would be the file's, and is none
        ("bundle trust {odd}.key.pub --name maker --keys {new}", 0),
        ("keys new {new}", 0),
        ("keys allow {odd}.curve.pub --name mes --role listen --allowed {new}", 0),
        ("calibrate {bundle} {pictures} {folder}/defective --to {new}", 0),
        ("cameras calibrate {line} top {pictures} --to {new}", 0),
        ("journal show {line}", 0),
        ("status {line} --timeout 0.05", 18),
        ("select {line} p --timeout 0", 7),
        ("trigger {line} top --timeout 0", 7),
        ("watch {line} --timeout 0 --save {new}", 0),
        ("run {line}", 0),
        ("reload {line} --timeout 0", 7),
        ("journal export {line} --out {new}", 0),
        ("follow {line} --name mes --jsonl {new} --timeout 0", 0),
    ],
)
def test_a_command_accepts_a_path_that_is_not_utf8(odd: Path, tmp_path: Path, command: str, code: int) -> None:
    assert run(command, odd, tmp_path) == code
    if not command.startswith(("run", "reload", "journal export", "follow")):
        (tmp_path / "again").mkdir()
        assert run(f"{command} --json", odd, tmp_path / "again") == code


@pytest.mark.long
def test_training_and_export_accept_paths_not_utf8(odd: Path, tiny_trunk: tuple[str, str], tmp_path: Path) -> None:
    trunk = "model=test_efficientnet model.weights={new}.pth features.folder={new}-features tiles.tile_px=64"
    shutil.copy(tiny_trunk[1].partition("=")[2], tmp_path / f"{ODD}.pth")
    for command in (
        f"train {{folder}} out={{new}} {trunk} recipe.steps=2 recipe.folds=2 --json",
        "train out={new} resume=true",
        "export {new} --to {new}-bundle --precision f32 --allow map --json",
        "evaluate {new} {new}-bundle --data {folder} --part all --out {new}-report --json",
    ):
        assert run(command, odd, tmp_path) == 0, command
    assert run("train {none}", odd, tmp_path) == 9
