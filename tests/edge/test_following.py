"""The durable protocol on the wire: messages are read as they were written, and other bytes are refused."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import MessageError
from heatline.edge.wire.events import AlarmEvent, VerdictEvent
from heatline.edge.wire.following import (
    Batch,
    Delivered,
    Former,
    Reason,
    Reply,
    Request,
    batch_parts,
    events_of,
    reply_from,
    request_from,
)
from heatline.edge.wire.requests import SCHEMA_VERSION, Refused, refuse, to_bytes
from tests.edge.follow_examples import DATA, EVENTS, HEADERS, JOURNAL, PNG, REPLIES, REQUESTS, frames_of
from tests.edge.wire_examples import unpack

DOCUMENT = Path(__file__).parents[2] / "docs" / "durable.md"
MESSAGES: dict[str, Request | Reply] = {**REQUESTS, **REPLIES}


def read(data: bytes, example: Request | Reply) -> Request | Reply | None:
    """Read a request or a reply, like the example; return None if it is refused."""
    if isinstance(example, Request):
        request = request_from(data)
        return None if isinstance(request, Refused) else request
    try:
        return reply_from(data)
    except MessageError:
        return None


# Golden bytes.


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_messages_stay_readable_and_equal(name: str) -> None:
    message, parts = MESSAGES[name], unpack((DATA / name).read_bytes())
    assert read(parts[0], message) == message
    assert (events_of(message, parts) if isinstance(message, Batch) else parts[1:]) == (
        EVENTS[: message.events] if isinstance(message, Batch) else []
    )
    written = {name for name in message.__struct_fields__ if getattr(message, name) is not msgspec.UNSET}
    assert json.loads(to_bytes(message)).keys() == {"type", *written}, "every field is written"


def test_golden_bytes_name_their_schema_version_and_cover_every_field() -> None:
    messages = [json.loads(unpack((DATA / name).read_bytes())[0]) for name in MESSAGES]
    assert {each["schema_version"] for each in messages} == {SCHEMA_VERSION}
    for kind in [*get_args(Request), *get_args(Reply), Former]:
        seen = [each for each in messages if each["type"] == kind.__struct_config__.tag]
        if kind is Former:
            seen = [each["former"] for each in messages if each.get("former")]
        for field in msgspec.structs.fields(kind):
            values = [each.get(field.encode_name, field.default) for each in seen]
            assert values
            if not field.required and field.name != "schema_version":
                default = field.default if field.default is msgspec.UNSET else msgspec.to_builtins(field.default)
                assert any(value != default for value in values), f"{field.name} always has its default"


def test_new_fields_and_reasons_are_accepted_and_other_versions_are_refused() -> None:
    for reply in REPLIES.values():
        assert reply_from(to_bytes(reply)[:-1] + b',"later":[{"x":1}]}') == reply
    later = reply_from(b'{"type":"refused","schema_version":2,"reason":"asleep","detail":"It is night."}')
    assert later == Refused(reason="asleep", detail="It is night.")
    for version, side in ((1, "the line"), (3, "this client")):
        sentence = f"a reply of schema version {version} came, this client knows version 2; update {side}"
        with pytest.raises(MessageError, match=sentence):
            reply_from(b'{"type":"following","schema_version":%d}' % version)


# Other bytes.

FOLLOW, ACK, FORGET = (
    {"type": "follow", "schema_version": 2, "name": "mes1", "client": "c"},
    {"type": "ack", "schema_version": 2, "name": "mes1", "journal_id": "j", "seq": 7},
    {"type": "forget", "schema_version": 2, "request_id": "r", "name": "mes1"},
)
REFUSED: list[tuple[bytes | dict[str, Any], str]] = [
    (b"", "truncated"),
    (b'{"type":"follow","schema_version":2,"name":"\xff"}', "utf-8"),
    (b'{"x":' + b"[" * 60_000, "recursion"),
    ({"schema_version": 2}, "missing required field `type`"),
    (FOLLOW | {"type": "trigger"}, "Invalid value 'trigger'"),  # a request of the command socket
    (FOLLOW | {"type": "batch"}, "Invalid value"),  # a reply, not a request
    (FOLLOW | {"schema_version": 0}, "Expected `int` >= 1"),
    ({"type": "follow", "schema_version": 2, "name": "mes1"}, "missing required field `client`"),
    *((FOLLOW | {"name": name}, "at `$.name`") for name in ("", "x" * 65, "mes 1", "mes/1", "mes1\n", "m\u00e9s")),
    (FOLLOW | {"client": ""}, "length >= 1 - at `$.client`"),
    (FOLLOW | {"client": "x" * 65}, "length <= 64 - at `$.client`"),
    (FOLLOW | {"client": "\x1b[2J"}, "printable characters"),
    (FOLLOW | {"window": 0}, "Expected `int` >= 1 - at `$.window`"),
    (FOLLOW | {"window": 1001}, "Expected `int` <= 1000 - at `$.window`"),
    (FOLLOW | {"topics": []}, "length >= 1 - at `$.topics`"),
    (FOLLOW | {"topics": ["x"] * 65}, "length <= 64 - at `$.topics`"),
    (FOLLOW | {"topics": ["x" * 201]}, "length <= 200"),
    (FOLLOW | {"start": "last"}, "Invalid enum value 'last'"),
    (FOLLOW | {"begin": "next"}, "unknown field `begin`"),
    (ACK | {"seq": -1}, "Expected `int` >= 0 - at `$.seq`"),
    (ACK | {"seq": 2**63}, "at `$.seq`"),
    (FORGET | {"type": "replay"}, "Invalid value 'replay'"),
]


def test_invalid_requests_are_refused_in_one_short_sentence() -> None:
    assert not any(isinstance(request_from(json.dumps(each).encode()), Refused) for each in (FOLLOW, ACK, FORGET))
    for content, excerpt in REFUSED:
        reply = request_from(content if isinstance(content, bytes) else json.dumps(content).encode())
        assert isinstance(reply, Refused)
        assert reply.reason == "malformed"
        assert excerpt.lower() in reply.detail.lower(), content  # msgspec 0.22 and 0.23 differ in case
        assert "\n" not in reply.detail
        assert len(to_bytes(reply)) < 1000
    assert len(refuse("malformed", "x" * 10_000).detail) == 300


def test_a_refusal_has_the_request_id_if_it_is_readable() -> None:
    for request, reason, request_id in [
        (FORGET | {"x": 1}, "malformed", "r"),
        (FORGET | {"schema_version": 3, "type": "x"}, "version", "r"),
        (FORGET | {"schema_version": 1}, "version", "r"),
        (FOLLOW | {"x": 1}, "malformed", None),
    ]:
        refused = request_from(json.dumps(request).encode())
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.request_id) == (reason, request_id)
        version, side = request["schema_version"], "the line" if request["schema_version"] == 3 else "the client"
        sentence = f"a request of schema version {version} came, this line knows version 2; update {side}"
        assert (refused.detail == sentence) == (reason == "version")


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=66)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(example=st.sampled_from(list(MESSAGES.values())), data=st.data())
def test_any_value_in_a_field_gives_a_stable_message_or_a_refusal(
    example: Request | Reply, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(["type", *example.__struct_fields__]))
    likely = st.integers(0, 2**63 - 1) | st.text("aZ9_.-", min_size=1, max_size=64) | st.lists(ANY_TEXT)
    content = json.loads(to_bytes(example)) | {field: data.draw(JSON | likely)}
    received = read(json.dumps(content).encode(), example)
    assert received is None or read(to_bytes(received), example) == received


@given(
    example=st.sampled_from(list(MESSAGES.values())),
    at=st.integers(0, 10**4),
    new=st.binary(max_size=100),
    replace_all=...,
)
def test_any_bytes_give_a_stable_message_or_a_refusal(
    example: Request | Reply, at: int, new: bytes, replace_all: bool
) -> None:
    data = to_bytes(example)
    at %= len(data)
    received = read(new if replace_all else data[:at] + new + data[at + len(new) :], example)
    assert received is None or read(to_bytes(received), example) == received


def test_a_journal_id_that_could_be_a_path_is_refused() -> None:
    good = to_bytes(REPLIES["following-v2.bin"])
    for bad_id in (b"", b"../../etc/passwd", b"j\\n", b"x" * 65):
        with pytest.raises(MessageError, match="journal_id"):
            reply_from(good.replace(JOURNAL.encode(), bad_id))


# Batches.


def batch(**changes: Any) -> Batch:
    return msgspec.structs.replace(REPLIES["batch-v2.bin"], **changes)


def test_events_arrive_as_they_were_journalled() -> None:
    first, second = events_of(batch(), frames_of(batch()))
    assert (first.key, first.seq, first.header, first.png) == (f"{JOURNAL}-8", 8, HEADERS[0], PNG)
    assert (second.key, second.seq, second.header, second.png) == (f"{JOURNAL}-10", 10, HEADERS[1], None)
    assert isinstance(first.event, VerdictEvent)
    assert isinstance(second.event, AlarmEvent)
    assert (first.topic, second.topic) == (first.event.topic, second.event.topic) == ("verdict.top.DEFECT", "alarm")


def test_events_of_later_types_and_versions_are_passed_on_unparsed() -> None:
    header = b'{"type":"weather","schema_version":9,"journal_id":"j","seq":1,"camera":[1]}'
    announced = Batch(journal_id="j", after_seq=0, through_seq=1, last_seq=1, events=1)
    (event,) = events_of(announced, batch_parts(announced, [(header, None)]))
    assert (event.header, event.key, event.topic) == (header, "j-1", "weather")
    with pytest.raises(MessageError, match="update this reader"):
        _ = event.event
    with pytest.raises(MessageError, match="the header of event j-1 has no topic"):
        _ = Delivered("j", 1, b'{"journal_id":"j","seq":1}').topic


PARTS = frames_of(batch())
INVALID_BATCHES: list[tuple[Batch, list[bytes], str]] = [
    (batch(), PARTS[:-1], "a batch of 4 part"),
    (batch(), [b"", b"{}", b"", HEADERS[0], b""], "not an event"),
]


def test_a_batch_that_contradicts_its_header_is_refused() -> None:
    for announced, parts, excerpt in INVALID_BATCHES:
        with pytest.raises(MessageError, match=excerpt):
            events_of(announced, parts)


@given(after=st.integers(0, 20), steps=st.lists(st.integers(1, 5), max_size=6), rest=st.integers(0, 3))
def test_any_batch_is_read_as_it_was_written(after: int, steps: list[int], rest: int) -> None:
    seqs = [after + sum(steps[: count + 1]) for count in range(len(steps))]
    events = [Delivered("j", seq, b'{"journal_id":"j","seq":%d}' % seq, b"png" if seq % 2 else None) for seq in seqs]
    through = max([after, *seqs]) + rest
    announced = Batch(journal_id="j", after_seq=after, through_seq=through, last_seq=through, events=len(events))
    assert events_of(announced, batch_parts(announced, [(event.header, event.png) for event in events])) == events


# The document.


def section(heading: str) -> str:
    level = heading.count("#")
    below = f"\n{DOCUMENT.read_text()}".partition(f"\n{heading}\n")[2]
    assert below, heading
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_reason_and_this_schema_version_are_documented() -> None:
    reasons = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section("### Refused"), flags=re.MULTILINE)
    assert reasons == list(get_args(Reason))
    assert f"**schema version {SCHEMA_VERSION}**" in DOCUMENT.read_text()


def test_the_documented_exchange_matches_the_wire_format() -> None:
    messages = re.findall(r"^```json\n(.*?)\n```$", section("## A worked exchange"), flags=re.MULTILINE | re.DOTALL)
    kinds: set[str] = set()
    refused: Refused | None = None
    announced: Batch | None = None
    parts: list[bytes] = []
    for text in messages:
        content = json.loads(text)
        kinds.add(content["type"])
        if "boot_id" in content:  # an event, which documents may break into lines
            parts += [json.dumps(content).encode(), b""]
        elif content["type"] in ("follow", "ack", "forget"):
            request = request_from(text.encode())
            refused = request if isinstance(request, Refused) else None
            assert refused or to_bytes(request) == text.encode()
        else:
            assert announced is None or len(events_of(announced, [b"", *parts])) == announced.events
            reply = reply_from(text.encode())
            assert to_bytes(reply) == text.encode()
            assert refused is None or reply == refused
            announced, parts = (reply, []) if isinstance(reply, Batch) else (None, [])
    assert announced is None
    assert {"follow", "following", "batch", "ack", "alarm", "refused"} <= kinds
