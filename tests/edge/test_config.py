"""The line's configuration: accepted keys, and files that are refused before the line starts."""

import re
from pathlib import Path

import pytest

from heatline.edge.cameras.settings import FolderSettings, PatternSettings, from_bytes, to_bytes
from heatline.edge.config import (
    EventsConfig,
    EvidenceConfig,
    LineConfig,
    ThresholdsConfig,
    TilesConfig,
    WebConfig,
    load_config,
)
from heatline.edge.config.engine import EngineConfig
from heatline.edge.errors import ConfigError
from tests.command import sentence_of

SMALLEST = 'bundle = "b"\n[[cameras]]\nkind = "folder"\nname = "top"\npath = "frames"\n'
FULL = """
bundle = "../boards.bundle"
acting = false
allow_unsigned = true
trusted_keys = "keys"
engine = {kind = "onnxruntime", precision = "f32", threads = 4, streams = 2, batch = 8}
tiles = {overlap_px = 32}
thresholds = {score = 0, evidence = -2}
events = {bind = "ipc:///run/heatline/events", heatmaps = "always", wait_for_subscriber_s = 2.5}
commands = {bind = "tcp://127.0.0.1:5557"}
evidence = {folder = "evidence", retain_days = 7, retain_mib = 512, good_every = 100}
web = {listen = "*:8420", token_file = "token", certificate = "page.pem", key = "/etc/page.key", client_ca = "ca.pem"}

[[cameras]]
kind = "folder"
name = "top"
path = "top"
rate_fps = 5
loop = true
size = [1600, 1200]
pixel_format = "BGR8"
on_overload = "drop_oldest"
waiting_frames = 4

[[cameras]]
kind = "folder"
name = "side-2"
path = "/data/side"
size = "any"
pixel_format = "any"
"""


def load(folder: Path, text: str | bytes) -> LineConfig:
    path = folder / "line.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path)


def refusal(folder: Path, text: str | bytes) -> str:
    sentence = sentence_of(ConfigError, load, folder, text)
    assert str(folder / "line.toml") in sentence
    return sentence


def test_every_key_is_understood_and_paths_start_at_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "real.toml").write_bytes(b"\xef\xbb\xbf" + FULL.encode())  # with a byte order mark
    (etc / "line.toml").symlink_to("real.toml")
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("etc/line.toml"))
    top = FolderSettings(
        name="top", path=etc / "top", rate_fps=5.0, loop=True, size=(1600, 1200), pixel_format="BGR8",
        on_overload="drop_oldest", waiting_frames=4,
    )  # fmt: skip
    assert config == LineConfig(
        bundle=etc / ".." / "boards.bundle",
        acting=False,
        allow_unsigned=True,
        trusted_keys=etc / "keys",
        cameras=[top, FolderSettings(name="side-2", path=Path("/data/side"), size="any", pixel_format="any")],
        engine=EngineConfig(kind="onnxruntime", precision="f32", threads=4, streams=2, batch=8),
        tiles=TilesConfig(overlap_px=32),
        thresholds=ThresholdsConfig(score=0.0, evidence=-2.0),  # zero is a value, not the bundle's default
        events=EventsConfig(bind="ipc:///run/heatline/events", heatmaps="always", wait_for_subscriber_s=2.5),
        commands=config.commands,
        evidence=EvidenceConfig(folder=etc / "evidence", retain_days=7.0, retain_mib=512, good_every=100),
        web=WebConfig(
            listen="*:8420", token_file=etc / "token", certificate=etc / "page.pem", key=Path("/etc/page.key"),
            client_ca=etc / "ca.pem",
        ),
    )  # fmt: skip
    assert config.commands.bind == "tcp://127.0.0.1:5557"
    assert load(tmp_path, SMALLEST) == LineConfig(
        bundle=tmp_path / "b", cameras=[FolderSettings(name="top", path=tmp_path / "frames")], acting=True,
        allow_unsigned=False, events=EventsConfig(bind="tcp://127.0.0.1:5556"),
        trusted_keys=Path("/etc/heatline/trusted"),
    )  # fmt: skip


def with_key(table: str, key: str) -> str:
    """The smallest configuration with one more key in one of its tables."""
    if table == "":
        return key + "\n" + SMALLEST
    return SMALLEST + (key if table == "cameras" else f"[{table}]\n{key}")


REFUSED: dict[str, list[str]] = {
    "acting": ["1"],
    "trusted_keys": ["''", "['a']"],
    "cameras.rate_fps": ["'5'", "0", "nan", "inf"],
    "cameras.size": ["[640]", "640", "[0, 10]", "'second'"],
    "cameras.pixel_format": ["'RGB9'"],
    "cameras.waiting_frames": ["0"],
    "engine.kind": ["'torch'"],
    "engine.precision": ["'fp16'"],
    "engine.threads": ["-1", "1.5"],
    "tiles.overlap_px": ["-1"],
    "events.wait_for_subscriber_s": ["nan", "-1"],
    # No logit reaches nan or inf: every frame would be GOOD.
    "thresholds.score": ["nan", "inf", "-inf", "1e300", "'1'", "true", "1" + 400 * "0"],
    "thresholds.evidence": ["nan"],
    "events.bind": ["'udp://127.0.0.1:5556'", "''", "'tcp://'", "'tcp://127.0.0.1:0'", "'tcp://127.0.0.1:99999'"],
    "commands.bind": ["'tcp://127.0.0.1'"],
    "evidence.retain_mib": ["0"],
    "evidence.good_every": ["-1", "0.5"],
    "web.listen": ["'127.0.0.1'", "8420", "':8420'", "'[::1]:0'"],
}


def test_an_unknown_key_and_an_invalid_value_are_refused_with_their_key(tmp_path: Path) -> None:
    typos = {"": "actin", "cameras": "exposure_us", "engine": "cores", "tiles": "overlap", "thresholds": "scores"}
    for table, key in {**typos, "events": "port", "commands": "binds", "evidence": "mib", "web": "port"}.items():
        assert f" does not know the key {key}; expected " in refusal(tmp_path, with_key(table, f"{key} = 3"))
    for place, values in REFUSED.items():
        table, _, key = place.rpartition(".")
        for value in values:
            sentence = refusal(tmp_path, with_key(table, f"{key} = {value}"))
            name = rf"cameras\[top\]\.{key}(\[0\])?" if table == "cameras" else re.escape(place)
            assert re.search(rf": {name} is .+; expected ", sentence), value
            assert sentence.endswith(f"see docs/{'cameras' if table == 'cameras' else 'config'}.md")


def of_kind(kind: str, keys: str) -> str:
    return SMALLEST.replace('"folder"', f'"{kind}"').replace('path = "frames"', keys)


UNUSABLE: list[tuple[str | bytes, str]] = [
    # Contradictions.
    (
        with_key("engine", "kind = 'onnxruntime'\nprecision = 'bf16'"),
        "engine: onnxruntime cannot compute in bf16, only in f32",
    ),
    (with_key("commands", "bind = 'tcp://0.0.0.0:5557'"), "this machine alone can reach"),
    (with_key("web", "listen = '0.0.0.0:8420'"), "set web.token_file or web.client_ca, or listen on this machine"),
    (with_key("web", "certificate = 'a'"), "web.certificate is set and web.key is not"),
    (with_key("web", "key = 'a'"), "web.key is set and web.certificate is not"),
    (with_key("web", "client_ca = 'a'"), "so set web.certificate and web.key"),
    (SMALLEST + SMALLEST.partition("\n")[2], "two cameras have the same name (top, top)"),
    (SMALLEST + '[opcua]\nname = "plant"\n[modbus]\nname = "plant"', "opcua.name and modbus.name are both 'plant'"),
    # Keys that are missing or whose value fits nothing.
    ("", "it lacks the key cameras; expected "),
    ('bundle = "b"\ncameras = []', "cameras is []; expected `array` of length >= 1"),
    (SMALLEST.replace('bundle = "b"', 'bundle = "a\\u0000b"'), "bundle is 'a\\x00b'; expected a path"),
    (SMALLEST.replace('path = "frames"\n', ""), "cameras[top] lacks the key path; expected "),
    (SMALLEST.replace('"folder"', '"usb"'), "kind is 'usb'; expected one of folder, video, pattern, genicam, v4l2"),
    (SMALLEST.replace('"top"', '"top\\n"'), "expected 1 to 64 letters, digits, hyphens and underscores"),
    (SMALLEST.replace('"top"', f'"{"x" * 65}"'), "xxx...; expected 1 to 64 letters"),
    # No TOML.
    (SMALLEST + "[cameras]\n", "is not valid TOML"),  # a table and a list of the same name
    (b'bundle = "\xff"', "is not valid TOML"),  # Latin-1
    ("a = " + 5000 * "[", "is not valid TOML"),  # deeper than any reader goes
    # Invalid cameras.
    (of_kind("folder", 'path = "f"\ntrigger = "software"'), "does not know the key trigger; expected name, size"),
    (of_kind("genicam", "exposure_us = -5.0"), "cameras[top].exposure_us is -5.0; expected `float` > 0.0"),
    (of_kind("genicam", "region = [0, 0, 640]"), "expected `array` of length 4, got 3"),
    (of_kind("genicam", 'address = ""'), "cameras[top].address is ''; expected `str` of length >= 1"),
    (
        of_kind("genicam", 'address = "a"\n[[cameras]]\nkind = "genicam"\nname = "b"\naddress = "a"'),
        "the same device (a)",
    ),
    (of_kind("v4l2", "gain = nan"), "cameras[top].gain is nan; expected `float` >= -1000000000.0"),
    (of_kind("pattern", "draw_size = [65535, 10]"), "draw_size[0] is 65535; expected `int` <= 8192"),  # gigabytes each
    (of_kind("rtsp", 'url = "http://10.0.0.7/"'), "expected rtsp://... or rtsps://..."),
    (of_kind("folder", 'path = "f"\ndeadline_ms = 5.0'), 'a deadline and on_overload = "block"'),
    (of_kind("pattern", "roi = [[[0, 0], [9, 9]]]"), "expected `array` of length >= 3"),  # a line is not a polygon
    (of_kind("pattern", "roi = [[[0, 0], [9, 0], [9, 9]]]"), "set size to the width and height"),
    (of_kind("pattern", "size = [8, 8]\nexclude = [[[0, 0], [9, 0], [9, 9], [0, 9]]]"), "leave nothing of 8x8 px"),
]


@pytest.mark.parametrize(("text", "words"), UNUSABLE)
def test_a_file_that_no_line_can_use_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "round.toml").symlink_to("round.toml")
    reasons = {"none.toml": "No such file", "": "Is a directory", "round.toml": "Too many levels of symbolic links"}
    for name, words in reasons.items():
        with pytest.raises(ConfigError, match=rf"cannot be read \({words}"):
            load_config(tmp_path / name)


CAMERAS = {
    "folder": 'path = "frames"',
    "video": 'path = "frames.mp4"',
    "pattern": 'draw_size = [800, 600]\ntrigger = "software"\nlose_frames = [3]',
    "genicam": 'address = "192.168.1.20"\nexposure_us = 500.0\nregion = [0, 0, 640, 480]\ntrigger = "hardware"',
    "v4l2": 'device = "/dev/video2"\nframe_size = [1280, 720]\nfourcc = "MJPG"',
    "rtsp": 'url = "rtsp://10.0.0.7/live"\ntransport = "udp"',
}


def test_every_kind_of_camera_can_be_configured_and_sent_to_its_process(tmp_path: Path) -> None:
    common = 'deadline_ms = 80.0\non_overload = "drop_newest"\nstale_after_ms = 50.0\nfrozen_after_frames = 4'
    for kind, keys in CAMERAS.items():
        (camera,) = load(tmp_path, of_kind(kind, f"{keys}\n{common}")).cameras
        assert (camera.deadline_ms, camera.on_overload, camera.frozen_after_frames) == (80.0, "drop_newest", 4)
        assert from_bytes(to_bytes(camera)) == camera


def test_a_deadline_bounds_how_long_a_part_waits_for_its_frame() -> None:
    assert PatternSettings(name="a").part_within_s == 1.0
    assert PatternSettings(name="a", trigger_timeout_ms=200.0).part_within_s == 0.2
    assert PatternSettings(name="a", trigger_timeout_ms=200.0, deadline_ms=50.0).part_within_s == 0.05
