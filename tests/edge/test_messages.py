"""Messages on the wire are read as they were written; unknown fields are ignored, and other bytes are refused."""

import json
import math
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import MessageError
from heatline.edge.wire import events as wire
from heatline.edge.wire.events import (
    Event,
    Mark,
    MarkKind,
    Message,
    Region,
    ReviewEvent,
    VerdictEvent,
    from_frames,
    to_frames,
)
from tests.edge.wire_examples import (
    ALARM,
    CHANGE,
    DEFECT,
    GOLDEN,
    GOLDEN_FRAMES,
    GOOD,
    HANDSHAKE,
    LIVE_ONLY,
    LOST,
    NO_FRAME,
    STATUS,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = {str: TEXT, float: FLOAT, int: st.integers(-(2**63), 2**63 - 1), bool: st.booleans(), type(None): st.none()}


POINTS = st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20))


@st.composite
def marks(draw: st.DrawFn) -> Mark:
    """Return a mark. Its fields are constrained, and depend on each other."""
    kind = draw(st.sampled_from(get_args(MarkKind)))
    return Mark(
        id=draw(st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True)),
        picture=draw(st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)),
        camera=draw(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)),
        captured_at_ns=draw(st.integers(0, 2**63 - 1)),
        verdict="DEFECT" if kind == "false_alarm" else draw(st.sampled_from(["GOOD", "DEFECT"])),
        bundle=draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
        kind=kind,
        at_xy=draw(st.lists(POINTS, min_size=1, max_size=3)) if kind == "missed" else [],
        by=draw(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=64)),
    )


MARKS = marks()


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values of a message's type; new fields need no change here."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, UnionType):
        return st.one_of(*map(values, args))
    if origin is list:
        return st.lists(values(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if kind is Mark:
        return MARKS
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: values(hint) for name, hint in hints.items() if name != "schema_version"})


@given(event=values(Event), png=st.binary(max_size=50))
def test_a_message_is_received_as_it_was_sent(event: Event, png: bytes) -> None:
    has_heatmap = isinstance(event, VerdictEvent) and event.heatmap is not None
    message = Message(event, png if has_heatmap else None)
    parts = to_frames(message)
    assert len(parts) == (3 if has_heatmap else 2)
    assert from_frames(parts) == message


# Golden bytes.


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
    assert list(json.loads(rewritten[1])) == ["type", *GOLDEN[name].event.__struct_fields__], "each field is written"


def test_golden_bytes_of_a_defect_keep_their_meaning() -> None:
    event = DEFECT.event
    assert isinstance(event, VerdictEvent)
    assert event.regions == [Region((10, 20, 30, 44), [(10, 20), (10, 43), (29, 43), (29, 20)], 480, (14, 30), 9.5)]
    assert event.heatmap is not None
    assert (event.heatmap.hw, event.heatmap.logit_at_0, event.heatmap.logit_at_255) == ((2, 3), -2.0, 10.25)
    assert (event.frame_score, event.score_threshold, event.evidence_threshold) == (3.25, 1.5, 4.125)
    assert (event.part_id, event.source, event.acting) == ("part 12", "board-é.png", True)
    assert GOLDEN["verdict-part"].event.frame_hw == (1250, 1600)
    assert (GOOD.event.frames, GOOD.event.last_frame_id, GOOD.event.chunks) == (1, None, {})  # not in these bytes


@pytest.mark.parametrize(
    "kind",
    [
        VerdictEvent,
        wire.StatusEvent,
        wire.AlarmEvent,
        wire.DriftEvent,
        wire.ChangeEvent,
        wire.JournalEvent,
        wire.ReviewEvent,
    ],
)
def test_golden_bytes_name_their_schema_version_and_cover_every_field(kind: type[Event]) -> None:
    headers = [
        json.loads(GOLDEN_FRAMES[name][1]) for name, message in GOLDEN.items() if isinstance(message.event, kind)
    ]
    assert {header["schema_version"] for header in headers} == {wire.SCHEMA_VERSION}
    assert {field for header in headers for field in header} == {"type", *kind.__struct_fields__}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "false_alarm", "verdict": "GOOD", "at_xy": []},
        {"at_xy": []},  # a missed defect is somewhere
        {"kind": "right"},  # and a right verdict is not at a place
        {"at_xy": [[-1, 4]]},
        {"at_xy": [[4, 4]] * 65},
        {"verdict": "NO_VERDICT"},
        {"by": ""},
        {"by": " Jo"},
        {"by": "Jo\n"},
        {"picture": "../../etc/passwd"},
        {"bundle": "abc"},
        {"kind": "maybe"},
    ],
    ids=str,
)
def test_a_mark_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    assert isinstance(GOLDEN["review"].event, ReviewEvent)
    with pytest.raises(MessageError):
        from_frames(changed(GOLDEN["review"], lambda header: header["mark"].update(changes)))


# Other versions of the fields.


def changed(message: Message, change: Callable[[dict[str, Any]], Any]) -> list[bytes]:
    """Return a message's frames with a changed header."""
    topic, header, *rest = to_frames(message)
    content = msgspec.json.decode(header)
    change(content)
    return [topic, msgspec.json.encode(content), *rest]


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    def add(header: dict[str, Any]) -> None:
        header["torque_nm"] = 3
        header["bundle"]["signature"] = {"by": ["someone"]}
        header["regions"][0]["area_mm2"] = 0.5

    assert from_frames(changed(DEFECT, add)) == DEFECT


@pytest.mark.parametrize("message", [GOOD, LOST, HANDSHAKE, ALARM, CHANGE, LIVE_ONLY], ids=lambda m: m.event.topic)
def test_fields_with_a_default_may_be_missing(message: Message) -> None:
    fields = [field for field in msgspec.structs.fields(message.event) if not field.required]

    def leave_out(header: dict[str, Any]) -> None:
        for field in fields:
            if field.name != "schema_version":
                del header[field.name]

    received = from_frames(changed(message, leave_out)).event
    for field in fields:
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        assert getattr(received, field.name) == default, field.name


def test_a_part_without_a_frame_has_a_null_frame_id() -> None:
    assert msgspec.json.decode(to_frames(NO_FRAME)[1])["frame_id"] is None
    with pytest.raises(MessageError, match="missing required field `frame_id`"):
        from_frames(changed(NO_FRAME, lambda header: header.pop("frame_id")))


# Refusals.

REFUSED: list[tuple[list[bytes], str]] = [
    ([], "message of 0 part"),
    ([b"status"], "message of 1 part"),
    ([*to_frames(DEFECT), b"more"], "message of 4 part"),
    ([b"status", b""], "is not an event"),
    ([b"status", b"[]"], "is not an event"),
    ([b"status", b"{}"], "missing required field `schema_version`"),
    ([b"status", b'{"schema_version": 2}'], "missing required field `type`"),
    ([b"status", b'{"schema_version": 2, "type": "torque"}'], "Invalid value 'torque'"),
    ([b"status", b'{"schema_version": "1"}'], "Expected `int`"),
    ([b"status", b'{"schema_version": 2, "type": "status", "line": "\xff"}'], "is not an event"),
    ([b"status", b'{"schema_version": 2, "x": ' + b"[" * 100_000], "is not an event"),  # too deep for a reader
    (
        changed(STATUS, lambda h: h.update(schema_version=1)),
        "1 came, this reader knows version 2; update the line",
    ),
    (
        changed(STATUS, lambda h: h.update(schema_version=3)),
        "3 came, this reader knows version 2; update this re",
    ),
    (changed(STATUS, lambda h: h.update(schema_version=10**30)), "update this reader"),
    (changed(GOOD, lambda h: h.update(verdict="MAYBE")), "Invalid enum value 'MAYBE'"),
    (changed(GOOD, lambda h: h.update(frame_id="1")), "Expected `int | null`, got `str` - at `$.frame_id`"),
    (changed(GOOD, lambda h: h["times"].pop("captured_at_ns")), "missing required field `captured_at_ns`"),
    (changed(GOOD, lambda h: h.pop("acting")), "missing required field `acting`"),  # an ejector must not guess it
    (changed(GOOD, lambda h: h.update(score_threshold=None)), "Expected `float`"),
    (changed(ALARM, lambda h: h.pop("active")), "missing required field `active`"),  # nor whether it is over
    (changed(CHANGE, lambda h: h.pop("applied")), "missing required field `applied`"),  # nor whether it was applied
    (changed(CHANGE, lambda h: h.pop("product")), "missing required field `product`"),
    (changed(GOOD, lambda h: h.update(previous_seq=None)), "Expected `int`, got `null` - at `$.previous_seq`"),
    (changed(HANDSHAKE, lambda h: h.pop("handshake")), "missing required field `handshake`"),
    (changed(HANDSHAKE, lambda h: h["handshake"].pop("state")), "missing required field `state`"),
    (changed(HANDSHAKE, lambda h: h["handshake"].pop("heartbeat")), "missing required field `heartbeat`"),
    ([b"verdict.top.GOOD", to_frames(DEFECT)[1], b"png"], "belongs under 'verdict.top.DEFECT'"),  # a defect as GOOD
    ([b"verdict.side.GOOD", to_frames(GOOD)[1]], "belongs under 'verdict.top.GOOD'"),
    ([b"status", to_frames(ALARM)[1]], "belongs under 'alarm'"),
    (to_frames(DEFECT)[:2], "message of 2 parts came, its header announces 3"),  # the heatmap is missing
    ([*to_frames(GOOD), b"png"], "message of 3 parts came, its header announces 2"),
    ([*to_frames(STATUS), b"png"], "message of 3 parts came, its header announces 2"),
]


@pytest.mark.parametrize(("parts", "excerpt"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_messages_are_refused_with_the_reason(parts: list[bytes], excerpt: str) -> None:
    with pytest.raises(MessageError) as caught:
        from_frames(parts)
    assert excerpt in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500, "a refusal does not repeat all of a long message"


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_arbitrary_bytes_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(MessageError):
        from_frames(parts)


@given(name=st.sampled_from(sorted(GOLDEN)), place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_message_or_a_message_error(name: str, place: int, value: int) -> None:
    topic, header, *rest = to_frames(GOLDEN[name])
    damaged = bytearray(header)
    damaged[place % len(damaged)] = value
    try:
        message = from_frames([topic, bytes(damaged), *rest])
    except MessageError:
        return
    assert message.event.topic.encode() == topic
    if isinstance(message.event, VerdictEvent):
        assert math.isfinite(message.event.score_threshold)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted(GOLDEN)), data=st.data())
def test_any_value_in_a_field_gives_a_message_or_a_message_error(name: str, data: st.DataObject) -> None:
    message = GOLDEN[name]
    field = data.draw(st.sampled_from(type(message.event).__struct_fields__))
    value = data.draw(JSON)
    try:
        received = from_frames(changed(message, lambda header: header.update({field: value})))
    except MessageError:
        return
    assert isinstance(received.event, type(message.event))
    to_frames(received)
