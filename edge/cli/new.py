"""`heatline new`: writes the file of a line that has a camera and no bundle yet."""

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from heatline.edge.cameras.discovery import list_all
from heatline.edge.cli.cameras import NONE_FOUND
from heatline.edge.cli.output import json_option, print_report, print_warnings, say
from heatline.edge.config import load_config
from heatline.edge.errors import CameraError, ConfigError
from heatline.edge.util.files import writing
from heatline.edge.util.systemd import LINES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
TEXT = """\
# The line {name}. All keys: docs/config.md. `heatline check` verifies this file.

# Without a key `bundle`, the line collects pictures, and no frame gets a verdict. `heatline reload --bundle` writes the
# key, and from then on the line inspects.
allow_unsigned = true           # false: only a bundle that a trusted key signed can be used
acting = false                  # true: ejectors may act on the verdicts

[[cameras]]
{camera}

[journal]                       # stores every event, and who kept which picture
{journal}
[collect]
{folder}every = 0                       # n: keeps each n-th frame, without a label; 0: none
triggered = {triggered:<19} # true: keeps each frame of a camera with a trigger

[evidence]                      # once the line inspects: pictures of each DEFECT, and of each n-th GOOD
good_every = 500

[web]                           # the page, for this PC alone; others need a token: docs/view.md
listen = "127.0.0.1:8420"
"""


@click.command(epilog="Example: heatline new line1 --camera kind=rtsp --camera url=rtsp://10.0.0.7/1")
@click.argument("line")
@click.option(
    "--camera",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the camera, for each one; or a folder of pictures; or `pattern`, a camera that only draws. Default: "
    "the camera that is found.",
)
@json_option
def new(line: str, given: tuple[str, ...], as_json: bool) -> None:
    """Write the file of a line that collects pictures until it has a bundle.

    Takes the camera that is found; of several, asks for one. LINE is a name, whose file is written here, or a path that
    ends with .toml. Never overwrites a file.
    """
    file = Path(line if line.endswith(".toml") else f"{line}.toml")
    if not NAME.fullmatch(file.stem):
        raise ConfigError(f"{file.stem!r} is no name of a line; expected letters, digits, hyphens and underscores")
    if file.exists():
        raise ConfigError(f"{file} exists; choose another name, or change that file")
    keys = _given(given) if given else _found()
    camera = {"name": "camera", **keys}
    is_service, has_trigger = file.absolute().parent == LINES, camera.get("trigger", "free") != "free"
    text = TEXT.format(
        name=file.stem,
        camera="\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in camera.items()),
        journal="" if is_service else f'folder = "{file.stem}-journal"\n',
        folder="" if is_service else f'folder = "{file.stem}-pictures"\n',
        triggered=str(has_trigger).lower(),
    )
    if camera.get("trigger") == "software":
        text += '\n[commands]                      # takes triggers\nbind = "tcp://127.0.0.1:5557"\n'
    with writing(file, ConfigError), file.open("x", encoding="utf-8") as new_file:
        new_file.write(text)
    try:
        config = load_config(file)
    except ConfigError:
        file.unlink()
        raise
    assert config.web is not None
    described = ", ".join(str(value) for value in keys.values())
    facts = {"camera": described, "run it": f"heatline run {file}", "page": f"http://{config.web.listen}/"}
    print_report({"file": str(file), "camera": camera, "page": facts["page"]}, as_json, f"{file} is written", facts)


def _given(given: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the camera that the command line names."""
    if given == ("pattern",):
        return {"kind": "pattern", "rate_fps": 2.0}
    if len(given) == 1 and Path(given[0]).is_dir():
        return {"kind": "folder", "path": str(Path(given[0]).absolute()), "loop": True, "rate_fps": 2.0}
    keys = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"--camera is {each!r}; expected KEY=VALUE, a folder of pictures, or pattern")
        try:
            keys[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            keys[key] = value
    return keys


def _found() -> dict[str, str]:
    """Return the keys of the camera that is found; of several, those of the one that a person chooses."""
    listed = list_all()
    print_warnings([] if listed.missing is None else [listed.missing])
    found = listed.cameras
    if not found:
        raise CameraError(f"{NONE_FOUND}; or name a folder of pictures, or pattern, with --camera")
    if len(found) == 1:
        return found[0].keys
    if not sys.stdin.isatty():
        names = "; ".join(" ".join(f"--camera {key}={text}" for key, text in each.keys.items()) for each in found)
        raise CameraError(f"{len(found)} cameras were found; choose one with: {names}")
    for number, each in enumerate(found, 1):
        say(f"{number}  {each.model}, {each.protocol} {each.serial}  {' '.join(each.keys.values())}")
    return found[click.prompt("Camera", type=click.IntRange(1, len(found))) - 1].keys
