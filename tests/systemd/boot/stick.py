"""The files that a line engineer brings besides the package: the maker's key, lines, bundles, pictures."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.bundle import Bundle, open_bundle, sign_bundle, write_bundle
from heatline.edge.bundle.signature import make_key, read_private_key
from tests.edge.lines import small_frames, write_pictures

BUNDLE = Path(__file__).parents[3] / "examples" / "drawn_boards" / "bundle"
"""A trained bundle, with an EfficientNet."""
LINE = """
bundle = "boards.bundle"
product = "boards"

[[cameras]]
kind = "pattern"
name = "top"
draw_size = [224, 224]
rate_fps = 2.0
waiting_frames = 32

[[cameras]]
kind = "folder"
name = "boards"
path = "/srv/pictures"
rate_fps = 2.0
loop = true
waiting_frames = 32

[events]
bind = "tcp://127.0.0.1:5556"
wait_for_subscriber_s = 30

[commands]
bind = "tcp://127.0.0.1:5557"

[thresholds]
check_plausibility = false

[[products]]
name = "boards"

[[products]]
name = "lids"
bundle = "better.bundle"

[evidence]
good_every = 3

[web]

[journal]
bind = "tcp://127.0.0.1:5558"

[mqtt]
broker = "mqtt://127.0.0.1:1883"

[opcua]
listen = "127.0.0.1:4840"
unprotected = true

[modbus]
listen = "127.0.0.1:1502"
"""
LINE_WITHOUT_A_CAMERA = """
bundle = "boards.bundle"

[[cameras]]
kind = "v4l2"
name = "gone"
device = "/dev/video63"

[events]
bind = "tcp://127.0.0.1:5566"
"""


@dataclass(frozen=True)
class Stick:
    path: Path
    boards: Bundle
    better: Bundle


def write_stick(path: Path) -> Stick:
    """Write the stick's files to a new folder."""
    path.mkdir()
    make_key(path / "maker.key")
    key = read_private_key(path / "maker.key")
    etc = path / "etc"
    shutil.copytree(BUNDLE, etc / "boards.bundle")
    boards = sign_bundle(open_bundle(etc / "boards.bundle"), key)
    better = sign_bundle(_better(boards, etc / "better.bundle"), key)
    shutil.copytree(better.path, etc / "broken.bundle")
    _break(etc / "broken.bundle" / "model_f32.bin")
    (etc / "line1.toml").write_text(LINE)
    (etc / "line2.toml").write_text(LINE_WITHOUT_A_CAMERA)
    write_pictures(path / "pictures", small_frames(6, (224, 224)))
    return Stick(path, boards, better)


def _better(bundle: Bundle, path: Path) -> Bundle:
    """Write a bundle of the same model with another threshold."""
    manifest = bundle.manifest
    calibration = msgspec.structs.replace(
        manifest.calibration, score_threshold=manifest.calibration.score_threshold + 0.5
    )
    files = {name: (bundle.path / name).read_bytes() for name in manifest.files}
    return write_bundle(path, msgspec.structs.replace(manifest, version="better", calibration=calibration), files)


def _break(file: Path) -> None:
    """Change one byte, as a faulty copy does."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
