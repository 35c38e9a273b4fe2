"""Messages on the wire: golden bytes stay readable, messages are read as written, and other bytes are refused."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec
import pytest

from heatline.edge.errors import MessageError
from heatline.edge.wire import commands
from heatline.edge.wire import events as wire
from heatline.edge.wire.events import Event, Message, from_frames, to_frames
from heatline.edge.wire.following import Batch, Delivered, Reason, Reply, Request, events_of, reply_from, request_from
from heatline.edge.wire.requests import SCHEMA_VERSION, Refused, refuse, to_bytes
from tests.edge.wire_examples import (
    ALARM,
    CHANGE,
    DATA,
    DEFECT,
    GOLDEN,
    GOLDEN_FRAMES,
    GOOD,
    HANDSHAKE,
    JOURNAL,
    REPLIES,
    REQUESTS,
    STATUS,
    unpack,
)
from tests.test_docs import blocks, rows, section
from tests.test_docs import read as read_document


def is_contained(old: Any, new: Any) -> bool:
    """Return whether a new JSON value contains an old one; the new one may have more fields."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and is_contained(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(is_contained(*pair) for pair in zip(old, new, strict=True))
    return bool(old == new)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_stay_readable_and_keep_their_meaning(name: str) -> None:
    topic, header, *png = GOLDEN_FRAMES[name]
    rewritten = to_frames(GOLDEN[name])
    assert [rewritten[0], *rewritten[2:]] == [topic, *png]
    assert is_contained(json.loads(header), json.loads(rewritten[1]))
    assert from_frames(rewritten) == GOLDEN[name]
    assert list(json.loads(rewritten[1])) == ["type", *GOLDEN[name].event.__struct_fields__], "each field is written"


def changed_event(message: Message, change: Callable[[dict[str, Any]], Any]) -> list[bytes]:
    """Return a message's frames with a changed header."""
    topic, header, *rest = to_frames(message)
    content = msgspec.json.decode(header)
    change(content)
    return [topic, msgspec.json.encode(content), *rest]


def with_field(message: Message, name: str, value: object) -> list[bytes]:
    return changed_event(message, lambda header: header.update({name: value}))


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    def add(header: dict[str, Any]) -> None:
        header["torque_nm"] = 3
        header["bundle"]["signature"] = {"by": ["someone"]}
        header["regions"][0]["area_mm2"] = 0.5

    assert from_frames(changed_event(DEFECT, add)) == DEFECT


REQUIRED = [
    (GOOD, "times", "captured_at_ns"),
    (GOOD, "acting"),  # an ejector must not guess it
    (ALARM, "active"),  # nor whether it is over
    (CHANGE, "applied"),
    (CHANGE, "product"),
    (HANDSHAKE, "handshake"),
    (HANDSHAKE, "handshake", "state"),
    (HANDSHAKE, "handshake", "heartbeat"),
]
"""Fields that a reader must not replace by a default: the example that loses one, and the path to it."""


BAD_MARKS: list[dict[str, object]] = [
    {"kind": "false_alarm", "verdict": "GOOD", "at_xy": []},
    {"at_xy": []},  # a missed defect is somewhere
    {"kind": "right"},  # and a right verdict is not at a place
    {"at_xy": [[-1, 4]]},
    {"at_xy": [[4, 4]] * 65},
    {"boxes_xywh": [[4, 4, 0, 5]]},
    {"boxes_xywh": [[4, 4, 5, 5]] * 65},
    {"strokes": [{"points_xy": [], "width_px": 4}]},
    {"strokes": [{"points_xy": [[4, 4]] * 65, "width_px": 4}]},
    {"strokes": [{"points_xy": [[4, 4]], "width_px": 0}]},
    {"strokes": [{"points_xy": [[4, 4]], "width_px": 4}] * 65},
    {"kind": "right", "at_xy": [], "boxes_xywh": [[4, 4, 5, 5]]},
    {"verdict": "NO_VERDICT"},
    {"by": " Jo"},
    {"by": "Jo\n"},
    {"picture": "../../etc/passwd"},
    {"bundle": "abc"},
]


def without(message: Message, *path: str) -> list[bytes]:
    """Return a message's frames without a field of its header."""
    return changed_event(message, lambda header: functools.reduce(dict.__getitem__, path[:-1], header).pop(path[-1]))


def test_invalid_messages_are_refused_with_the_reason() -> None:
    refused = [
        ([], "message of 0 part"),
        ([*to_frames(DEFECT), b"more"], "message of 4 part"),
        ([b"status", b"[]"], "is not an event"),
        ([b"status", b"{}"], "missing required field `schema_version`"),
        ([b"status", b'{"schema_version": 2, "type": "torque"}'], "Invalid value 'torque'"),
        ([b"status", b'{"schema_version": "1"}'], "Expected `int`"),
        ([b"status", b'{"schema_version": 2, "type": "status", "line": "\xff"}'], "is not an event"),
        ([b"status", b'{"schema_version": 2, "x": ' + b"[" * 100_000], "is not an event"),  # too deep for a reader
        (with_field(STATUS, "schema_version", 1), "1 came, this reader knows version 2; update the line"),
        (with_field(STATUS, "schema_version", 3), "3 came, this reader knows version 2; update this reader"),
        (with_field(STATUS, "schema_version", 10**30), "update this reader"),
        (with_field(GOOD, "verdict", "MAYBE"), "Invalid enum value 'MAYBE'"),
        (with_field(GOOD, "frame_id", "1"), "Expected `int | null`, got `str` - at `$.frame_id`"),
        (with_field(GOOD, "latency_ms", None), "Expected `float`"),
        (with_field(GOOD, "previous_seq", None), "Expected `int`, got `null` - at `$.previous_seq`"),
        *((without(*each), f"missing required field `{each[-1]}`") for each in REQUIRED),
        ([b"verdict.top.GOOD", to_frames(DEFECT)[1], b"png"], "belongs under 'verdict.top.DEFECT'"),
        ([b"verdict.side.GOOD", to_frames(GOOD)[1]], "belongs under 'verdict.top.GOOD'"),
        (to_frames(DEFECT)[:2], "message of 2 parts came, its header announces 3"),  # the heatmap is missing
        ([*to_frames(GOOD), b"png"], "message of 3 parts came, its header announces 2"),
        ([*to_frames(STATUS), b"png"], "message of 3 parts came, its header announces 2"),
        *(
            (changed_event(GOLDEN["review"], lambda header, to=to: header["mark"].update(to)), "mark")
            for to in BAD_MARKS
        ),
    ]
    for parts, excerpt in refused:
        with pytest.raises(MessageError) as caught:
            pytest.fail(f"{excerpt}: {from_frames(parts)}")
        assert excerpt in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500, "a refusal does not repeat all of a long message"


MESSAGES: dict[str, Request | Reply] = {**REQUESTS, **REPLIES}


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_messages_stay_readable_and_equal(name: str) -> None:
    message, parts = MESSAGES[name], unpack((DATA / name).read_bytes())
    assert (request_from if isinstance(message, Request) else reply_from)(parts[0]) == message
    if isinstance(message, Batch):
        both = [Delivered(JOURNAL, 8, *parts[1:3]), Delivered(JOURNAL, 10, *parts[3:4])] if message.events else []
        assert events_of(message, parts) == both
    written = {name for name in message.__struct_fields__ if getattr(message, name) is not msgspec.UNSET}
    assert json.loads(to_bytes(message)).keys() == {"type", *written}, "every field is written"


def test_new_fields_and_reasons_are_accepted_and_other_versions_are_refused() -> None:
    for reply in REPLIES.values():
        assert reply_from(to_bytes(reply)[:-1] + b',"later":[{"x":1}]}') == reply
    later = reply_from(b'{"type":"refused","schema_version":2,"reason":"asleep","detail":"It is night."}')
    assert later == Refused(reason="asleep", detail="It is night.")
    for version, side in ((1, "the line"), (3, "this client")):
        sentence = f"a reply of schema version {version} came, this client knows version 2; update {side}"
        with pytest.raises(MessageError, match=sentence):
            reply_from(b'{"type":"following","schema_version":%d}' % version)


FOLLOW, ACK, FORGET = (
    {"type": "follow", "schema_version": 2, "name": "mes1", "client": "c"},
    {"type": "ack", "schema_version": 2, "name": "mes1", "journal_id": "j", "seq": 7},
    {"type": "forget", "schema_version": 2, "request_id": "r", "name": "mes1"},
)

REFUSED: list[tuple[bytes | dict[str, Any], str]] = [
    (b"", "truncated"),
    (b'{"type":"follow","schema_version":2,"name":"\xff"}', "utf-8"),
    (b'{"x":' + b"[" * 60_000, "recursion"),
    (FOLLOW | {"type": "trigger"}, "Invalid value 'trigger'"),  # a request of the command socket
    ({"type": "follow", "schema_version": 2, "name": "mes1"}, "missing required field `client`"),
    *((FOLLOW | {"name": name}, "at `$.name`") for name in ("", "x" * 65, "mes 1", "mes/1", "mes1\n", "m\u00e9s")),
    (FOLLOW | {"client": "\x1b[2J"}, "printable characters"),
    (FOLLOW | {"window": 1001}, "Expected `int` <= 1000 - at `$.window`"),
    (FOLLOW | {"topics": ["x"] * 65}, "length <= 64 - at `$.topics`"),
    (FOLLOW | {"start": "last"}, "Invalid enum value 'last'"),
    (FOLLOW | {"begin": "next"}, "unknown field `begin`"),
    (ACK | {"seq": -1}, "Expected `int` >= 0 - at `$.seq`"),
]

TRIGGER, SELECT = (
    {"type": "trigger", "schema_version": 2, "camera": "top", "part_id": "P-1"},
    {"type": "select", "schema_version": 2, "product": "4711"},
)

REFUSED_COMMANDS: list[tuple[bytes | dict[str, Any], str]] = [
    (TRIGGER | {"type": "select"}, "unknown field `camera`"),  # fields of both requests
    (TRIGGER | {"camera": "\udc00"}, "surrogate"),  # a reply cannot repeat it
    (TRIGGER | {"camera": "x" * 65}, "length <= 64 - at `$.camera`"),
    (TRIGGER | {"camera": "top\n"}, "printable characters, got 'top\\n' - at `$.camera`"),
    (TRIGGER | {"part_id": ""}, "length >= 1 - at `$.part_id`"),
    (TRIGGER | {"part_id": "P\u202e1"}, "printable characters"),  # would reverse a terminal's text
    (TRIGGER | {"part": "P-1"}, "unknown field `part`"),  # otherwise the part id would be lost silently
    (SELECT | {"product": "4711\x1b[2J"}, "printable characters"),
]


@pytest.mark.parametrize(
    ("read_request", "valid", "invalid"),
    [(request_from, (FOLLOW, ACK, FORGET), REFUSED), (commands.request_from, (TRIGGER, SELECT), REFUSED_COMMANDS)],
    ids=["journal", "commands"],
)
def test_invalid_requests_are_refused_in_one_short_sentence(
    read_request: Callable[[bytes], Any],
    valid: Sequence[dict[str, Any]],
    invalid: Sequence[tuple[bytes | dict[str, Any], str]],
) -> None:
    assert not any(isinstance(read_request(json.dumps(each).encode()), Refused) for each in valid)
    for content, excerpt in invalid:
        reply = read_request(content if isinstance(content, bytes) else json.dumps(content).encode())
        assert isinstance(reply, Refused)
        assert reply.reason == "malformed"
        assert excerpt.lower() in reply.detail.lower(), content  # msgspec 0.22 and 0.23 differ in case
        assert "\n" not in reply.detail
        assert len(to_bytes(reply)) < 1000
    assert len(refuse("malformed", "x" * 10_000).detail) == 300
    for version, side in ((1, "the client"), (3, "this line")):
        changes = {"schema_version": version, "request_id": "r", "type": "x"}
        other = read_request(json.dumps(valid[-1] | changes).encode())
        assert other.detail == f"a request of schema version {version} came, this line knows version 2; update {side}"
        assert (other.reason, other.request_id) == ("version", "r"), "the id is readable"


def test_golden_bytes_name_their_schema_version_and_cover_every_field() -> None:
    headers = [json.loads(parts[1]) for parts in GOLDEN_FRAMES.values()]
    headers += [json.loads(unpack((DATA / name).read_bytes())[0]) for name in MESSAGES]
    assert {each["schema_version"] for each in headers} == {wire.SCHEMA_VERSION} == {SCHEMA_VERSION}
    for kind in [*get_args(Event), *get_args(Request), *get_args(Reply)]:
        seen = [each for each in headers if each["type"] == kind.__struct_config__.tag]
        assert {name for each in seen for name in each} == {"type", *kind.__struct_fields__}


@pytest.mark.parametrize(("document", "reasons"), [("docs/durable.md", Reason), ("docs/commands.md", commands.Reason)])
def test_every_reason_and_this_schema_version_are_documented(document: str, reasons: Any) -> None:
    text = read_document(document)
    assert list(rows(section(text, "### Refused"))) == list(get_args(reasons))
    assert f"**schema version {SCHEMA_VERSION}**" in text


@pytest.mark.parametrize(
    ("document", "read_request", "read_reply"),
    [("docs/durable.md", request_from, reply_from), ("docs/commands.md", commands.request_from, commands.reply_from)],
)
def test_the_documented_exchange_matches_the_wire_format(
    document: str, read_request: Callable[[bytes], Any], read_reply: Callable[[bytes], Any]
) -> None:
    for text in blocks(section(read_document(document), "## A worked exchange"), "json"):
        line, kind = text.strip().encode(), json.loads(text)["type"]
        if kind in ("follow", "ack", "forget", "trigger", "select"):
            request = read_request(line)
            assert isinstance(request, Refused) or to_bytes(request) == line
        elif kind not in ("verdict", "alarm"):  # events of a batch
            assert to_bytes(read_reply(line)) == line
