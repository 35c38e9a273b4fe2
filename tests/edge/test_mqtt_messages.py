"""The messages of the MQTT bridge: events as they are, under topics that the document lists."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from heatline.edge.bridge.mqtt import NO_SUBSCRIBERS, Messages
from heatline.edge.wire.events import Message, header_of
from heatline.edge.wire.following import Delivered
from tests.edge.wire_examples import ALARM, CHANGE, DEFECT, GOLDEN, LIVE_ONLY, NO_VERDICT

MESSAGES = Messages("acme/plant1", "line1")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "plant-mqtt.md").read_text()


def delivered(message: Message, seq: int = 7) -> Delivered:
    event = msgspec.structs.replace(message.event, seq=seq, journal_id="j")
    return Delivered("j", seq, header_of(event), message.png)


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        (DEFECT, f"result/{DEFECT.event.camera}"),  # type: ignore[union-attr]
        (NO_VERDICT, f"result/{NO_VERDICT.event.camera}"),  # type: ignore[union-attr]
        (ALARM, "alarm"),
        (CHANGE, "change"),
        (GOLDEN["review"], "review"),
        (LIVE_ONLY, "journal"),
    ],
)
def test_an_event_is_published_as_it_is(message: Message, topic: str) -> None:
    given = delivered(message)
    made = MESSAGES.of(given)
    assert (made.topic, made.payload, made.id, made.retain) == (
        f"acme/plant1/line1/{topic}",
        given.header,
        "j-7",
        False,
    )
    if not topic.startswith("result/"):
        assert f"| `{{prefix}}/{{line}}/{topic}` | no |" in DOCUMENT


def test_an_event_of_a_later_version_is_published_too() -> None:
    header = b'{"type":"weather","schema_version":9,"journal_id":"j","seq":7}'
    assert (MESSAGES.of(Delivered("j", 7, header)).topic, header) == ("acme/plant1/line1/weather", header)


def test_a_loss_has_the_fields_that_the_document_lists_and_the_same_id_again() -> None:
    lost = MESSAGES.lost("deleted", "they are gone", Delivered("j", 4, b""), 9)
    assert (lost.topic, lost.id) == ("acme/plant1/line1/lost", "j-4-deleted")
    said = json.loads(lost.payload)
    assert (said["journal_id"], said["first_seq"], said["last_seq"]) == ("j", 4, 9)
    section = DOCUMENT.partition("\n## Lost\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == said.keys()


def test_the_code_of_nobody_who_subscribes_is_documented() -> None:
    assert f"| {NO_SUBSCRIBERS}, no matching subscribers |" in DOCUMENT
