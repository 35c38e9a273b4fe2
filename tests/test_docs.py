"""The documents are held to the code: what is not documented, or no longer true, fails here."""

import ast
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
import numpy as np
import pytest
from click.testing import CliRunner

from bench.cameras import full_plan
from edge import errors
from edge.bundle import Bundle, Manifest
from edge.cameras.frame_ids import MOST_LOST
from edge.cameras.liveness import (
    ANSWER_WITHIN_SECONDS,
    ASK_EVERY_SECONDS,
    CAMERA_ANSWERS_WITHIN_SECONDS,
    FIRST_FRAME_WITHIN_SECONDS,
    LEAST_SILENCE_SECONDS,
)
from edge.cameras.settings import CameraSettings, V4l2Settings
from edge.cameras.state import State
from edge.cameras.supervisor import CLOSE_WITHIN_SECONDS, FIRST_BACKOFF_SECONDS, MOST_BACKOFF_SECONDS
from edge.cameras.triggering import FIRE_WITHIN_SECONDS
from edge.cli.main import heatline
from edge.cli.status import EXIT_CODES
from edge.config import LineFile, load_config
from edge.delivery.commands import CommandServer, Selected, refusal
from edge.delivery.durable import following
from edge.delivery.messages import (
    AlarmEvent,
    BundleName,
    ChangeEvent,
    Event,
    Handshake,
    HandshakeState,
    HeatmapPng,
    JournalEvent,
    Message,
    StatusEvent,
    Times,
    VerdictEvent,
    Welcome,
    from_frames,
)
from edge.delivery.publisher import Publisher
from edge.delivery.schemas.generate import FOLDER, schemas
from edge.delivery.security.curve import make_key_pair, read_public_key
from edge.heatmap_picture import ColourScale, png
from tests.edge.doors import Events
from tests.edge.secured import Secured, free_port
from tests.small_bundle import TILE, answer
from train.config import TrainConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "systemd/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINKS = [
    pytest.param(document, target, id=f"{document.relative_to(ROOT)}: {target}")
    for document in DOCUMENTS
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    if "://" not in target
]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, below = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """Rows of the tables in a text, by their first cell, which is in backticks."""
    lines = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, flags=re.MULTILINE)
    return {first: [cell.strip() for cell in rest.split("|")] for first, rest in lines}


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# Commands.


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*found, id=" ".join(found[0]) or "heatline") for found in commands(heatline)]
)
def test_every_command_and_option_is_documented(path: tuple[str, ...], command: click.Command) -> None:
    shown = CliRunner().invoke(heatline, [*path, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    if isinstance(command, click.Group):
        return
    table = rows(read("docs/README.md"))
    name = " ".join(("heatline", *path))
    found = next((told for told in table.items() if re.sub(r" \[?[A-Z].*", "", told[0]) == name), None)
    assert found is not None, f"docs/README.md has no row for `{name}`"
    first, row = found
    assert ("[BUNDLE]" in first) == ("[BUNDLE]" in shown.output.partition("\n\n")[0])
    documented = set(re.findall(r"`(--?[a-z-]+)`", row[0]))
    assert documented == {
        option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts
    }


def test_no_command_is_documented_that_does_not_exist() -> None:
    exist = {" ".join(("heatline", *path)) for path, _ in commands(heatline)}
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    for line in re.findall(r"^(?:\$ )?(heatline [^\n]*)", "\n".join(blocks(text, "sh")), flags=re.MULTILINE):
        words = [word for word in line.split() if re.fullmatch("[a-z-]+", word)]
        assert any(" ".join(words[:count]) in exist for count in (2, 3)), line


def test_every_exit_code_is_documented() -> None:
    table = re.findall(r"^\| (\d+) \| (.*?) \|", section(read("README.md"), "## Exit codes"), flags=re.MULTILINE)
    documented = {(int(code), name) for code, names in table for name in re.findall(r"`(\w+)`", names)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.HeatlineError]
    exist = {(kind.exit_code, kind.__name__) for kind in kinds if issubclass(kind, errors.HeatlineError)}
    assert documented == exist
    assert {0, 1, 2, 130} <= {int(code) for code, _ in table}


# Keys and fields.


def keys(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a struct and of those inside it, dotted, with its field; a tag has none."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.StructType) and info.tag_field:
        yield prefix + info.tag_field, None
    for field in msgspec.structs.fields(kind):
        inside = msgspec.inspect.type_info(field.type)
        if not all(isinstance(one, msgspec.inspect.StructType) for one in getattr(inside, "types", [inside])):
            yield prefix + field.encode_name, field
        for struct in structs(inside):
            yield from keys(struct, f"{prefix}{field.encode_name}.")


def structs(info: msgspec.inspect.Type) -> list[Any]:
    """The structs that a type is made of."""
    match info:
        case msgspec.inspect.StructType(cls=struct):
            return [struct]
        case msgspec.inspect.UnionType(types=types):
            return [struct for one in types for struct in structs(one)]
        case msgspec.inspect.ListType(item_type=item) | msgspec.inspect.DictType(value_type=item):
            return structs(item)
    return []


def default(field: Any) -> str:
    """A key's default as JSON; nothing where it must be given."""
    if field.required:
        return ""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(value, enc_hook=str).decode()


KEYS = [
    # What reads it, where it is described, what stands there for a key that must be given and for null.
    pytest.param(LineFile, "docs/config.md", None, ("required", "none"), id="line"),
    pytest.param(Manifest, "docs/bundle.md", "## Manifest", None, id="manifest"),
    pytest.param(VerdictEvent, "docs/protocol.md", "## Verdict event", ("", "null"), id="verdict"),
    pytest.param(StatusEvent, "docs/protocol.md", "## Status event", ("", "null"), id="status"),
    pytest.param(AlarmEvent, "docs/protocol.md", "## Alarm event", ("", "null"), id="alarm"),
    pytest.param(ChangeEvent, "docs/protocol.md", "## Change event", ("", "null"), id="change"),
    pytest.param(JournalEvent, "docs/protocol.md", "## Journal event", ("", "null"), id="journal"),
    pytest.param(Welcome, "docs/protocol.md", "## Welcome", ("", "null"), id="welcome"),
    pytest.param(TrainConfig, "docs/training.md", "## Keys", None, id="train"),
]
NOT_FIELDS = {"model", "recipe", "logger"}  # of a training: choices of a file each
NOT_KEYS = re.compile(r"dropped\.|failed\.|verdict\.|status$")  # tables of reasons and topics


@pytest.mark.parametrize(("kind", "document", "heading", "defaults"), KEYS)
def test_every_key_is_documented_with_its_default(
    kind: type, document: str, heading: str | None, defaults: tuple[str, str] | None
) -> None:
    text = read(document)
    table = {key: cells for key, cells in rows(section(text, heading) if heading else text).items() if cells}
    exist = {re.sub(r"^tensors\.\w+", "tensors.*", key): field for key, field in keys(kind)}
    if kind is LineFile:  # docs/cameras.md has the keys of cameras, kind by kind
        exist = {key: field for key, field in exist.items() if not key.startswith("cameras.")} | {"cameras": None}
    documented = {key for key in table if not NOT_KEYS.match(key)} - (NOT_FIELDS if kind is TrainConfig else set())
    assert documented == exist.keys()
    if defaults is None:
        return
    required, null = defaults
    for key, field in exist.items():
        if field is not None:
            stands = table[key][1].strip("`")
            assert stands == {"": required, "null": null}.get(default(field), default(field)), key


CAMERAS = [
    # Each kind, and where its own keys are described.
    pytest.param("folder", "docs/cameras.md", "## Folder", id="folder"),
    pytest.param("video", "docs/cameras.md", "## Video", id="video"),
    pytest.param("rtsp", "docs/cameras.md", "## RTSP", id="rtsp"),
    pytest.param("v4l2", "docs/cameras.md", "## V4L2", id="v4l2"),
    pytest.param("pattern", "docs/cameras.md", "## Pattern", id="pattern"),
    pytest.param("genicam", "docs/genicam.md", None, id="genicam"),
]
KINDS = {one.__struct_config__.tag: one for one in get_args(CameraSettings)}


def keys_in(text: str) -> dict[str, str]:
    """Keys in the tables of a text, each with what stands for its default."""
    return {key: cells[1] for key, cells in rows(text).items() if len(cells) == 3}


def test_every_kind_of_camera_is_documented() -> None:
    assert {parameter.values[0] for parameter in CAMERAS} == set(KINDS)
    assert set(KINDS) <= rows(read("docs/cameras.md")).keys()
    assert all(f'"{kind}"' in section(read("docs/config.md"), "## Cameras") for kind in KINDS)


@pytest.mark.parametrize(("kind", "document", "heading"), CAMERAS)
def test_every_key_of_every_kind_of_camera_is_documented_with_its_default(
    kind: str, document: str, heading: str | None
) -> None:
    common = keys_in(section(read("docs/cameras.md"), "## Keys"))
    assert common.pop("kind") == "required"
    own = keys_in(section(read(document), heading) if heading else read(document))
    fields = {field.encode_name: field for field in msgspec.structs.fields(KINDS[kind])}
    assert (common | own).keys() == fields.keys()
    for key, stands in (common | own).items():
        field = fields[key]
        if field.required:
            assert stands == "required", key
        elif default(field) == "null":  # what is taken then is said in words
            assert "`" not in stands, key
        else:
            assert json.loads(stands.strip("`")) == json.loads(default(field)), key


def choices_of(info: msgspec.inspect.Type) -> set[str]:
    """Every text that stands for itself in a type."""
    match info:
        case msgspec.inspect.LiteralType(values=values):
            return {value for value in values if isinstance(value, str)}
        case msgspec.inspect.StructType(fields=fields):
            return {choice for field in fields for choice in choices_of(field.type)}
        case msgspec.inspect.UnionType(types=types):
            return {choice for one in types for choice in choices_of(one)}
        case msgspec.inspect.ListType(item_type=item):
            return choices_of(item)
    return set()


def test_every_choice_of_the_configuration_is_documented() -> None:
    text = "".join(map(read, ("docs/config.md", "docs/cameras.md", "docs/genicam.md")))
    choices = choices_of(msgspec.inspect.type_info(LineFile))
    assert [choice for choice in sorted(choices) if not re.search(f'[`"]{choice}[`"]', text)] == []


# Links and examples.


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_every_link_points_somewhere(document: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (document.parent / path).resolve() if path else document
    assert linked.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "example",
    [example for name in ("cameras", "genicam") for example in blocks(read(f"docs/{name}.md"), "toml")],
)
def test_the_example_cameras_can_be_read(example: str, tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    file.write_text(f'bundle = "boards.bundle"\n{example}')
    assert len(load_config(file).cameras) == 1


@pytest.mark.parametrize(
    "example",
    [
        example
        for document in ("README.md", "docs/config.md", "docs/security.md")
        for example in blocks(read(document), "toml")
    ],
)
def test_the_example_configurations_can_be_read(example: str, tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    file.write_text(example)
    assert load_config(file).bundle == tmp_path / "boards.bundle"


def test_the_graph_runs_without_heatline_as_bundle_md_shows(bundle: Bundle, tmp_path: Path) -> None:
    (example,) = blocks(read("docs/bundle.md"), "python")
    tile = np.random.default_rng(1).integers(0, 256, (TILE, TILE, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "tile.png"), tile)
    (tmp_path / "boards.bundle").symlink_to(bundle.path)
    shown = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    logit, maps = answer(tile[None])
    np.testing.assert_allclose([float(number) for number in shown.stdout.split()], [logit[0], maps.max()], rtol=1e-4)


# The protocol.


def test_the_committed_schemas_are_those_of_the_structs() -> None:
    committed = {file.name: file.read_bytes() for file in FOLDER.glob("*.json")}
    assert committed == schemas(), "run `make schemas`, and mind docs/protocol.md#versioning"


@pytest.mark.parametrize("example", blocks(read("docs/protocol.md"), "json"))
def test_the_worked_exchange_consists_of_messages(example: str) -> None:
    header = json.loads(example)
    event = msgspec.json.decode(example, type=Event)
    assert json.loads(msgspec.json.encode(event)) == header  # every field is written, and no other
    parts = [event.topic.encode(), example.encode(), *([b"png"] if header.get("heatmap") else [])]
    assert from_frames(parts).event == event
    assert f"art 1 `{event.topic}`" in read("docs/protocol.md")


# What the code says in words.


def calls(name: str) -> Iterator[list[ast.expr | None]]:
    """What every call of this name in `edge` is given by place, and None for the places after that."""
    for file in (ROOT / "edge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                yield [*node.args, *[None] * 4]


def texts(node: ast.expr | None) -> list[str]:
    """The texts that an expression may be, as far as they stand there."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return [*texts(body), *texts(orelse)]
    return []


def alarms() -> set[str]:
    return {alarm for given in calls("Fault") for alarm in texts(given[0])}


def reasons() -> set[str]:
    """Every reason of a NO_VERDICT, `KIND.REASON`; a dead camera's frames fail for what is wrong with it."""
    return {
        *(f"failed.{alarm}" for alarm in alarms()),
        *(f"dropped.{reason}" for given in calls("_let_go") for reason in texts(given[0])),
        *(f"dropped.{reason}" for given in calls("_dropped") for reason in texts(given[1])),
        *(f"{kind}.{reason}" for given in calls("Unjudged") for kind in texts(given[0]) for reason in texts(given[1])),
        *(
            f"{kind}.{reason}"
            for given in calls("BadFrame")
            for kind in texts(given[3]) or ["failed"]
            for reason in texts(given[1])
        ),
    }


def test_every_reason_is_documented_and_no_other() -> None:
    assert rows(section(read("docs/protocol.md"), "### Reasons")).keys() == reasons()


def test_every_reason_of_the_handshake_is_documented_with_its_state_and_no_other() -> None:
    table = rows(section(read("docs/protocol.md"), "## Handshake"))
    states = {state: table.pop(state)[0] for state in get_args(HandshakeState)}
    assert states == {state: str(code) for state, code in EXIT_CODES.items()}
    named = re.findall(r'Reason\("(\w+)", "(\w+)"', read("edge/service/handshake.py"))
    assert [(cells[0].strip("`"), reason) for reason, cells in table.items()] == named, "the gravest first"


def test_every_reason_for_which_a_socket_refuses_is_documented_and_no_other() -> None:
    lines = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|", section(read("docs/security.md"), "## What is refused"), re.MULTILINE
    )
    noted = {reason for given in calls("note") for reason in texts(given[1])}
    of_connections = {reason for given in calls("_refused") for reason in texts(given[0])}
    of_requests = {*get_args(following.Reason), "malformed", "version"}
    assert {reason for line in lines for reason in re.findall(r"\w+", line)} == noted | of_connections | of_requests


LIVENESS = section(read("docs/cameras.md"), "## Liveness")


def test_every_alarm_is_documented_and_no_other() -> None:
    lines = re.findall(r"^\|.*\| ([^|]*) \|$", LIVENESS.partition("What follows")[0], flags=re.MULTILINE)
    assert {alarm for cell in lines[1:] for alarm in re.findall("`([a-z_]+)`", cell)} == alarms()


@pytest.mark.parametrize(
    "seconds",
    [
        ASK_EVERY_SECONDS + ANSWER_WITHIN_SECONDS,  # its process hangs
        2 * ASK_EVERY_SECONDS + CAMERA_ANSWERS_WITHIN_SECONDS,  # it is not known whether it is there
        V4l2Settings(name="usb").opened_within_s,
        LEAST_SILENCE_SECONDS,
        FIRST_FRAME_WITHIN_SECONDS,
        CAMERA_ANSWERS_WITHIN_SECONDS,
        CLOSE_WITHIN_SECONDS,
        FIRST_BACKOFF_SECONDS,
        MOST_BACKOFF_SECONDS,
    ],
)
def test_the_stated_times_follow_from_the_constants(seconds: float) -> None:
    assert re.search(rf"\b{seconds:g} s\b", LIVENESS)


def test_the_stated_limits_follow_from_the_constants() -> None:
    (busy,) = rows(section(read("docs/commands.md"), "### Refused"))["busy"][:1]
    assert f"within {FIRE_WITHIN_SECONDS:g} s" in busy
    assert f"{FIRE_WITHIN_SECONDS:g} s." in section(read("docs/cameras.md"), "## Triggers and parts")
    assert f"more than {MOST_LOST}" in LIVENESS
    assert f"more than {MOST_LOST}" in rows(read("docs/protocol.md"))["failed.frame_ids"][0]


def test_how_soon_a_fault_is_noticed_is_what_was_measured() -> None:
    name = "bench/results/cameras.json"
    text = section(read("docs/cameras.md"), "### How soon")
    assert f"<!-- figures: {name} -->" in text
    lines = re.findall(r"^\| (pattern|GigE Vision), [^:]*: (.*?) \|.*?\| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    kinds = {"pattern": "pattern", "GigE Vision": "genicam"}
    documented = {(kinds[kind], fault): [noticed, again] for kind, fault, noticed, again in lines}
    scenarios = full_plan(seconds=1, repeats=1).scenarios
    expected = {(one.load.kind, fault): ["-", "-"] for one in scenarios for fault in one.faults}
    if (ROOT / name).exists():
        for one in json.loads(read(name))["faults"]:
            of = [one[figure]["median"] / 1e3 for figure in ("noticed_ms", "recovered_ms")]
            expected[one["load"]["kind"], one["fault"]] = [f"{seconds:.2f} s" for seconds in of]
    assert documented == expected


def test_every_state_of_a_camera_is_documented() -> None:
    table = rows(section(read("docs/cameras.md"), "### Idle or dead"))
    assert table.keys() == set(get_args(State))


def test_a_heatmap_is_read_as_protocol_md_shows() -> None:
    scale = ColourScale(low=-2.0, high=6.0)
    evidence = np.array([[-9.0, -2.0, 2.0], [5.0, 6.0, 9.0]], np.float32)
    shown: dict[str, Any] = {
        "png": png(scale.grey(evidence)),
        "heatmap": {"logit_at_0": scale.low, "logit_at_255": scale.high},
    }
    exec(blocks(section(read("docs/protocol.md"), "### Heatmap"), "python")[0], shown)
    np.testing.assert_allclose(shown["evidence"], evidence.clip(-2, 6), atol=8 / 255)


def verdict(seq: int, **what: Any) -> VerdictEvent:
    fields: dict[str, Any] = {
        "boot_id": "boot", "seq": seq, "camera": "top", "frame_id": seq, "verdict": "GOOD", "precision": "f32",
        "times": Times(captured_at_ns=0, captured_monotonic_ns=0), "score_threshold": 0.0, "evidence_threshold": 0.0,
        "bundle": BundleName(name="boards", version="1", digest="0"), "latency_ms": 1.0, "acting": True,
        "previous_seq": 0,
    }  # fmt: skip
    return VerdictEvent(**(fields | what))


def status(state: str, **what: Any) -> StatusEvent:
    fields: dict[str, Any] = {
        "boot_id": "boot", "at_ns": 0, "line": "line1", "state": state, "last_seq": 0, "ledger": {}, "acting": True,
        "engine": "openvino", "precision": "f32", "bundle": BundleName(name="boards", version="1", digest="0"),
    }  # fmt: skip
    return StatusEvent(**(fields | what))


def change(seq: int, **what: Any) -> ChangeEvent:
    fields: dict[str, Any] = {
        "boot_id": "boot", "seq": seq, "at_ns": 0, "line": "line1", "change": "select", "in_force": True,
        "product": "4711", "bundle": BundleName(name="boards", version="1", digest="0"), "acting": True,
        "previous_seq": 0,
    }  # fmt: skip
    return ChangeEvent(**(fields | what))


def alarm(seq: int, *, active: bool, previous_seq: int = 0) -> AlarmEvent:
    return AlarmEvent(
        boot_id="boot", seq=seq, at_ns=0, line="line1", camera="top", alarm="silent", detail="no frame came",
        active=active, began_at_ns=0, acting=True, previous_seq=previous_seq,
    )  # fmt: skip


def test_the_client_of_protocol_md_works(address: str) -> None:
    (client,) = blocks(section(read("docs/protocol.md"), "## A client"), "python")
    assert len(client.splitlines()) < 30
    picture = HeatmapPng(hw=(1, 1), cell_px=4, logit_at_0=0.0, logit_at_255=1.0)
    messages = [
        Message(status("RUNNING")),
        Message(verdict(1)),
        Message(verdict(2, verdict="DEFECT", heatmap=picture), png(np.zeros((1, 1), np.uint8))),
        Message(verdict(3, verdict="NO_VERDICT", reason="failed.unreadable", detail="cut off")),
        Message(alarm(4, active=True)),
        Message(alarm(7, active=False, previous_seq=6)),
        Message(verdict(8, verdict="DEFECT", acting=False)),
        Message(verdict(9, verdict="NO_VERDICT", reason="dropped.no_frame", frame_id=None)),
        Message(change(10)),
        Message(change(11, in_force=False, detail="its bundle is not there")),
        Message(verdict(1, boot_id="next boot")),
        Message(status("STOPPED")),
    ]
    publisher = Publisher(address)
    publisher.start()
    with subprocess.Popen([sys.executable, "-c", client, address], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert publisher.wait_for_subscriber(30)
            for message in messages:
                publisher.send(message)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            publisher.close()
    assert process.returncode == 0
    assert [line.rstrip() for line in output.splitlines() if not line.startswith("silence")] == [
        "1 top 1 GOOD",
        "2 top 2 DEFECT REJECT",
        "3 top 3 NO_VERDICT REJECT",
        "4 alarm no frame came",
        "missed: alarm after 4 up to 6",
        "7 alarm no frame came",
        "8 top 8 DEFECT",
        "9 top None NO_VERDICT REJECT",
        "10 change None",
        "11 change its bundle is not there",
        "1 top 1 GOOD",
    ]


def test_the_client_of_security_md_is_let_in_by_its_key(tmp_path: Path) -> None:
    (client,) = blocks(section(read("docs/security.md"), "## What a client needs"), "python")
    secured, port = Secured(tmp_path), free_port()
    own = tmp_path / "mes.key"
    secured.allow(make_key_pair(own), "listen")
    door = Events(port.bound, secured.access(), tmp_path)
    try:
        shown = subprocess.run(
            [sys.executable, "-c", client, port.reached, own, tmp_path / "line.key.pub"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    finally:
        door.close()
    assert shown.stdout == "status\n"


def test_the_key_of_security_md_is_one(tmp_path: Path) -> None:
    (example,) = blocks(section(read("docs/security.md"), "## Files"), "")
    file = tmp_path / "its.key.pub"
    file.write_text(example)
    assert read_public_key(file).decode() in example


def test_the_changeover_of_protocol_md_waits_until_the_new_product_may_come(address: str, tmp_path: Path) -> None:
    (client,) = blocks(section(read("docs/protocol.md"), "### A changeover"), "python")
    assert len(client.splitlines()) < 30
    ready = Handshake(state="READY", heartbeat=1)
    said = [
        status("RUNNING", product="4711", handshake=ready),
        status("RUNNING", product="4712", handshake=Handshake(state="BUSY", reason="changing", heartbeat=2)),
        status("RUNNING", product="4712", handshake=ready),
    ]
    publisher = Publisher(address)
    server = CommandServer(
        f"ipc://{tmp_path}/commands",
        lambda _, answer: answer(Selected(product="4712", bundle=BundleName(name="boards", version="1", digest="0"))),
    )
    publisher.start()
    server.start()
    with subprocess.Popen(
        [sys.executable, "-c", client, address, server.address, "4712"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            before, ready = said[:2], said[2]
            give_up = time.monotonic() + 30
            while not select.select([process.stdout], [], [], 0.1)[0]:  # until it has subscribed, and says so
                assert time.monotonic() < give_up
                for event in before:
                    publisher.send(Message(event))
            publisher.send(Message(ready))
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            publisher.close()
            server.close()
    assert process.returncode == 0
    *busy, last = [line.rstrip() for line in output.splitlines()]
    assert (set(busy), last) == ({"BUSY changing"}, "READY")


def test_the_changeover_of_protocol_md_ends_where_the_line_refuses(tmp_path: Path) -> None:
    (client,) = blocks(section(read("docs/protocol.md"), "### A changeover"), "python")
    server = CommandServer(
        f"ipc://{tmp_path}/commands", lambda _, answer: answer(refusal("unknown_product", "there is no product '9'"))
    )
    server.start()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", client, f"ipc://{tmp_path}/events", server.address, "9"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    finally:
        server.close()
    assert (ended.returncode, ended.stderr) == (1, "REFUSED unknown_product: there is no product '9'\n")
