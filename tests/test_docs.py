"""The documents agree with the code: undocumented and outdated facts fail here."""

import contextlib
import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import cv2
import msgspec
import msgspec.inspect
import numpy as np
import pytest
from click.testing import CliRunner

from heatline.edge import errors
from heatline.edge.bridge.mqtt import BridgeState
from heatline.edge.bundle import Bundle, Manifest
from heatline.edge.cameras import liveness, supervisor
from heatline.edge.cameras.liveness import MAX_LOST_FRAMES
from heatline.edge.cameras.settings import CameraSettings, FolderSettings, V4l2Settings
from heatline.edge.cameras.supervisor import State
from heatline.edge.cameras.triggering import FIRE_WITHIN_SECONDS
from heatline.edge.cli.line import EXIT_CODES
from heatline.edge.cli.main import heatline
from heatline.edge.config import LineConfig, load_config
from heatline.edge.delivery.auth import make_key_pair, read_public_key
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.heatmap_picture import ColourScale, png
from heatline.edge.reference.difference import CHANNELS, GreyRange
from heatline.edge.service.status import REASONS
from heatline.edge.wire import commands as line_commands
from heatline.edge.wire import following
from heatline.edge.wire.commands import Selected, refusal
from heatline.edge.wire.events import WORDS, BundleName, Event, Handshake, HandshakeState, Message, from_frames
from heatline.edge.wire.schemas import FOLDER, schemas
from heatline.train.config import TrainConfig
from tests.edge.lines import started
from tests.edge.secured import Secured, begun, free_port
from tests.edge.socket_servers import Events
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import ALARM, DEFECT, GOOD, NO_VERDICT, REFUSED_CHANGE, STATUS
from tests.small_bundle import TILE, answer
from tests.system.cameras import FAULTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "systemd/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, below = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables in a text by their first cell, which is in backticks."""
    lines = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, flags=re.MULTILINE)
    return {first: [cell.strip() for cell in rest.split("|")] for first, rest in lines}


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Return a command and all its subcommands, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


def test_every_command_has_an_example_and_each_of_its_options_a_help() -> None:
    for path, command in commands(heatline):
        shown = CliRunner().invoke(heatline, [*path, "--help"])
        assert (shown.exit_code, "Example:" in shown.output) == (0, True), path
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert [each.name for each in options if not each.help] == [], path


def test_every_documented_command_exists() -> None:
    exist = {" ".join(("heatline", *path)) for path, _ in commands(heatline)}
    shown = "\n".join(block for document in DOCUMENTS for block in blocks(document.read_text(), "sh"))
    for line in re.findall(r"^(?:\$ )?(heatline [^\n]*)", shown, flags=re.MULTILINE):
        words = [word for word in line.split() if re.fullmatch("[a-z-]+", word)]
        assert {" ".join(words[:count]) for count in (2, 3)} & exist, line


def test_every_exit_code_is_documented() -> None:
    table = re.findall(r"^\| (\d+) \| (.*?) \|", read("docs/exit-codes.md"), flags=re.MULTILINE)
    documented = {(int(code), name) for code, names in table for name in re.findall(r"`(\w+)`", names)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.HeatlineError]
    assert documented == {(kind.exit_code, kind.__name__) for kind in kinds if issubclass(kind, errors.HeatlineError)}
    assert {0, 1, 2, 130} <= {int(code) for code, _ in table}


GENERATED = {
    "bundle": [Manifest],
    "config": [LineConfig],
    "training": [TrainConfig],
    "wire": [Event, line_commands.Request, line_commands.Reply, following.Request, following.Reply],
}
"""The pages of the site whose tables it makes from structs, and the types of the first ones."""


def test_every_key_of_a_bridges_state_is_documented_with_its_default() -> None:
    table = rows(section(read("docs/plant-mqtt.md"), "## State"))
    expected = {"type": ""}
    for field in msgspec.structs.fields(BridgeState):
        expected[field.encode_name] = "" if field.required else msgspec.json.encode(field.default).decode()
    assert {key: cells[1].strip("`") for key, cells in table.items()} == expected


def structs_of(kind: msgspec.inspect.Type) -> Iterator[type]:
    """Yield the structs of a type, and those in their fields."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind.cls
    inner = [getattr(kind, name, None) for name in ("type", "item_type", "value_type")]
    inner += [*getattr(kind, "types", ()), *getattr(kind, "item_types", ())]
    inner += [field.type for field in getattr(kind, "fields", ())]
    for each in inner:
        yield from structs_of(each) if each is not None else ()


@pytest.mark.parametrize("page", GENERATED)
def test_the_site_has_a_table_of_each_struct(page: str) -> None:
    shown = re.findall(r"^```\{struct\} (.+)$", read(f"docs/reference/{page}.md"), re.MULTILINE)
    found = (each for kind in GENERATED[page] for each in structs_of(msgspec.inspect.type_info(kind)))
    assert sorted(shown) == sorted({f"{each.__module__}.{each.__qualname__}" for each in found})


def test_every_kind_of_camera_is_documented() -> None:
    kinds = {one.__struct_config__.tag for one in get_args(CameraSettings)}
    assert kinds <= rows(read("docs/cameras.md")).keys()
    assert all(f'kind = "{kind}"' in read("docs/cameras.md") for kind in kinds)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_has_a_target() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\(([^)\s#]*)#?([^)\s]*)\)", document.read_text())
        for path, anchor in links:
            linked = (document.parent / path).resolve() if path else document
            assert "://" in path or linked.exists(), (document, path)
            assert "://" in path or not anchor or anchor in anchors(linked), (document, path, anchor)


def test_the_example_configurations_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    for name in ("docs/tour.md", "docs/config.md", "docs/security.md", "docs/cameras.md", "docs/genicam.md"):
        for example in blocks(read(name), "toml"):
            file.write_text(example if "bundle =" in example else f'bundle = "boards.bundle"\n{example}')
            config = load_config(file)
            assert config.bundle.name in ("boards.bundle", "boards-line1.bundle")
            assert config.cameras
    tour = read("docs/tour.md")
    (shown,) = blocks(tour, "toml")
    assert tour.index(shown) < tour.index(" line.toml")
    file.write_text(shown)
    config = load_config(file)
    assert all(camera.loop for camera in config.cameras if isinstance(camera, FolderSettings))
    assert None not in (config.journal.bind, config.journal.folder), "`follow` would want it"


def test_the_readme_is_short_and_opens_with_the_page_of_a_line() -> None:
    readme = read("README.md")
    assert len(readme.splitlines()) < 250
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)[0] == "docs/view.webp"
    page = section(readme, "## The page of a line")
    named = "heatline view", "heatline evidence", "/metrics", "heatline[view]"
    assert [word for word in named if word not in page] == []


def test_the_graph_runs_as_bundle_md_shows(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, _ = blocks(read("docs/bundle.md"), "python")
    assert "heatline" not in example
    tile = np.random.default_rng(1).integers(0, 256, (TILE, TILE, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "tile.png"), tile)
    (tmp_path / "boards.bundle").symlink_to(bundle.path)
    with contextlib.chdir(tmp_path):
        exec(example, {})
    logit, maps = answer(tile[None])
    shown = [float(number) for number in capsys.readouterr().out.split()]
    np.testing.assert_allclose(shown, [logit[0], maps.max()], rtol=1e-4)


def test_another_program_computes_the_difference_as_bundle_md_shows() -> None:
    _, example = blocks(read("docs/bundle.md"), "python")
    shown: dict[str, Any] = {}
    exec(example, shown)
    rng = np.random.default_rng(1)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (300, 310), np.uint8), (0, 0), 3)
    reference = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    for y, x in ((0, 0), (30, 41), (76, 86)):
        tile = reference[y : y + TILE, x : x + TILE] // 2 + 60
        tile[100:130, 50:90] = rng.integers(0, 256, (30, 40), np.uint8)
        expected = np.empty((28, 28, CHANNELS), np.uint8)
        GreyRange(reference).difference(tile, (y, x), expected)
        found = shown["difference"](tile, reference, y, x)
        assert np.abs(found.astype(int) - expected)[..., 0::2].max() <= 1
        np.testing.assert_array_equal(found[..., 1::2], expected[..., 1::2])
        assert expected.max() > 50


def test_the_committed_schemas_are_those_of_the_structs() -> None:
    committed = {file.name: file.read_bytes() for file in FOLDER.glob("*.json")}
    assert committed == schemas(), "run `make schemas`, and mind docs/protocol.md#versioning"


def test_the_worked_exchange_consists_of_messages() -> None:
    examples = blocks(read("docs/protocol.md"), "json")
    assert examples
    for example in examples:
        header = json.loads(example)
        event = msgspec.json.decode(example, type=Event)
        assert json.loads(msgspec.json.encode(event)) == header  # every field is written, and no other
        parts = [event.topic.encode(), example.encode(), *([b"png"] if header.get("heatmap") else [])]
        assert from_frames(parts).event == event
        assert f"art 1 `{event.topic}`" in read("docs/protocol.md")


EDGE = "\n".join(path.read_text() for path in sorted((ROOT / "edge").rglob("*.py")))
LIVENESS = section(read("docs/cameras.md"), "## Liveness")


def test_every_reason_of_the_handshake_is_documented_with_its_state_and_no_other() -> None:
    table = rows(section(read("docs/protocol.md"), "## Handshake"))
    states = {state: table.pop(state)[0] for state in get_args(HandshakeState)}
    assert states == {state: str(code) for state, code in EXIT_CODES.items()}
    documented = [(reason, cells[0].strip("`")) for reason, cells in table.items()]
    assert documented == list(REASONS.items()), "the most severe first"


def test_every_reason_for_which_a_socket_refuses_is_documented_and_no_other() -> None:
    table = section(read("docs/security.md"), "## What is refused")
    documented = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([`\w, ]+) \|", table, re.MULTILINE)))
    noted = re.findall(r'refusals\.note\(\w+\._name, "(\w+)"', EDGE)
    assert sorted(documented) == sorted({*noted, *get_args(following.Reason), "malformed", "version"})


def test_every_reason_alarm_and_state_is_documented_and_no_other() -> None:
    assert rows(section(read("docs/protocol.md"), "### Reasons")).keys() == WORDS.keys()
    given = re.findall(r'\b(?:Fault\(|_close_process\(|Unjudged\("\w+",|BadFrame\([^"()]+,) ?"(\w+)"', EDGE)
    known = {word for reason in WORDS for word in reason.split(".")}  # a kind may stand between
    assert (len(set(given)) > 15, set(given) - known) == (True, set())
    lines = re.findall(r"^\|.*\| ([^|]*) \|$", LIVENESS.partition("What follows")[0], flags=re.MULTILINE)
    alarms = {alarm for cell in lines[1:] for alarm in re.findall("`([a-z_]+)`", cell)}
    of_cameras = section(read("docs/protocol.md"), "### Reasons").partition("| fault of the camera |")[2]
    assert {f"failed.{alarm}" for alarm in alarms} == rows(of_cameras).keys()
    assert rows(section(read("docs/cameras.md"), "### Idle or dead")).keys() == set(get_args(State))


def test_the_stated_times_and_limits_follow_from_the_constants() -> None:
    for seconds in (
        supervisor.HEALTH_WITHIN_SECONDS,  # its process hangs
        V4l2Settings(name="usb").opened_within_s,
        *(liveness.MIN_SILENCE_SECONDS, liveness.FIRST_FRAME_WITHIN_SECONDS),
        *(supervisor.CLOSE_WITHIN_SECONDS, supervisor.FIRST_BACKOFF_SECONDS, supervisor.MAX_BACKOFF_SECONDS),
    ):
        assert re.search(rf"\b{seconds:g} s\b", LIVENESS), seconds
    (busy,) = rows(section(read("docs/commands.md"), "### Refused"))["busy"][:1]
    assert f"within {FIRE_WITHIN_SECONDS:g} s" in busy
    assert f"{FIRE_WITHIN_SECONDS:g} s." in section(read("docs/cameras.md"), "## Triggers and parts")
    assert f"more than {MAX_LOST_FRAMES}" in LIVENESS
    assert f"more than {MAX_LOST_FRAMES}" in rows(read("docs/protocol.md"))["failed.frame_ids"][0]


def test_how_soon_a_fault_is_noticed_is_what_was_measured() -> None:
    name = "tests/system/results/cameras.json"
    text = section(read("docs/cameras.md"), "### How soon")
    assert f"<!-- figures: {name} -->" in text
    lines = re.findall(r"^\| (pattern|GigE Vision), [^:]*: (.*?) \|.*?\| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    kinds = {"pattern": "pattern", "GigE Vision": "genicam"}
    documented = {(kinds[kind], fault): [noticed, again] for kind, fault, noticed, again in lines}
    expected = {(kind, fault): ["-", "-"] for kind, faults in FAULTS.items() for fault in faults}
    for one in json.loads(read(name))["faults"]:
        of = [one[figure]["median"] / 1e3 for figure in ("noticed_ms", "recovered_ms")]
        expected[one["load"]["kind"], one["fault"]] = [f"{seconds:.2f} s" for seconds in of]
    assert documented == expected


def test_a_heatmap_is_read_as_protocol_md_shows() -> None:
    scale = ColourScale(low=-2.0, high=6.0)
    evidence = np.array([[-9.0, -2.0, 2.0], [5.0, 6.0, 9.0]], np.float32)
    shown: dict[str, Any] = {
        "png": png(scale.grey(evidence)),
        "heatmap": {"logit_at_0": scale.low, "logit_at_255": scale.high},
    }
    exec(blocks(section(read("docs/protocol.md"), "### Heatmap"), "python")[0], shown)
    np.testing.assert_allclose(shown["evidence"], evidence.clip(-2, 6), atol=8 / 255)


def python(document: str, heading: str) -> str:
    """Return the only Python example below a heading."""
    (example,) = blocks(section(read(document), heading), "python")
    return example


def like(message: Message, seq: int, **what: Any) -> Message:
    """A message as that, which is `seq` in a boot whose first event it follows without a gap."""
    keys = {"boot_id": "boot", "journal_id": None, "previous_seq": 0, "acting": True, "seq": seq} | what
    return Message(msgspec.structs.replace(message.event, **keys), message.png)


def test_the_client_of_protocol_md_works(address: str) -> None:
    client = python("docs/protocol.md", "## A client")
    assert len(client.splitlines()) < 30
    messages = [
        Message(a_status()),
        like(GOOD, 1),
        like(DEFECT, 2),
        like(NO_VERDICT, 3, camera="top"),
        like(ALARM, 4),
        like(ALARM, 7, active=False, previous_seq=6),
        like(DEFECT, 8, acting=False),
        like(REFUSED_CHANGE, 9, detail="its bundle is not there"),
        like(GOOD, 1, boot_id="next boot"),
        STATUS,  # with the state STOPPED
    ]
    with begun(Publisher(address)) as publisher, started(sys.executable, "-c", client, address) as process:
        assert publisher.wait_for_subscriber(30)
        for message in messages:
            publisher.send(message)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert [line.rstrip() for line in output.splitlines() if not line.startswith("silence")] == [
        "1 top 1 GOOD",
        "2 top 9 DEFECT REJECT",
        "3 top 3 NO_VERDICT REJECT",
        "4 alarm it is not there",
        "missed: alarm after 4 up to 6",
        "7 alarm it is not there",
        "8 top 9 DEFECT",
        "9 change its bundle is not there",
        "1 top 1 GOOD",
    ]


def test_the_client_of_security_md_connects_with_its_key(tmp_path: Path) -> None:
    client = python("docs/security.md", "## What a client needs")
    secured, port = Secured(tmp_path), free_port()
    own = tmp_path / "mes.key"
    secured.allow(make_key_pair(own), "listen")
    with contextlib.closing(Events(port.bound, secured.access(), tmp_path)):
        shown = subprocess.run(
            [sys.executable, "-c", client, port.reached, own, tmp_path / "line.key.pub"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert shown.stdout == "status\n"


def test_the_key_of_security_md_is_valid(tmp_path: Path) -> None:
    (example,) = blocks(section(read("docs/security.md"), "## Files"), "")
    file = tmp_path / "its.key.pub"
    file.write_text(example)
    assert read_public_key(file).decode() in example


@contextlib.contextmanager
def changeover(address: str, commands: str, answer: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the client of protocol.md beside a line that gives this answer to every request."""
    client = python("docs/protocol.md", "### A changeover")
    assert len(client.splitlines()) < 30
    with (
        begun(CommandServer(commands, lambda _, reply: reply(answer))),
        started(sys.executable, "-c", client, address, commands, "4712") as process,
    ):
        yield process


def test_the_changeover_of_protocol_md_waits_until_the_new_product_is_ready(address: str, tmp_path: Path) -> None:
    ready = Handshake(state="READY", heartbeat=1)
    changing = Handshake(state="BUSY", reason="changing", heartbeat=2)
    selected = Selected(product="4712", bundle=BundleName(name="boards", version="1", digest="0"))
    with (
        StatusOnlyLine(address, a_status(product="4712", handshake=changing)) as line,
        changeover(address, f"ipc://{tmp_path}/commands", selected) as process,
    ):
        give_up = time.monotonic() + 30
        while not select.select([process.stdout], [], [], 0.1)[0]:  # until it has subscribed, and says so
            assert time.monotonic() < give_up
            line.send(a_status(product="4711", handshake=ready))  # of the old product
        line.status = a_status(product="4712", handshake=ready)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    *busy, last = [line.rstrip() for line in output.splitlines()]
    assert (set(busy), last) == ({"BUSY changing"}, "READY")


def test_the_changeover_of_protocol_md_ends_if_the_line_refuses(tmp_path: Path) -> None:
    refused = refusal("unknown_product", "there is no product '4712'")
    with changeover(f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/commands", refused) as process:
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, "REFUSED unknown_product: there is no product '4712'\n")
