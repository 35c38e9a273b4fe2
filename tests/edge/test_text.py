"""Counts in sentences: a count of one is singular."""

import pytest

from heatline.edge.cli.bundle_formatting import count_frames
from heatline.edge.describe import describe_consumer
from heatline.edge.service.status import DropMonitor
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import Account, Consumer, JournalState


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 frames are"), (1, "1 frame is"), (2, "2 frames are"), (1234, "1,234 frames are")]
)
def test_a_count_of_one_is_singular(count: int, text: str) -> None:
    assert f"{format_count(count, 'frame', ',')} {is_are(count)}" == text
    assert format_count(count, "frame") == text.replace(",", "").rpartition(" ")[0]


def test_a_calibration_formats_its_frame_counts() -> None:
    assert count_frames(1, "good frames of early") == "1 good frame of early"
    assert count_frames(2, "good frames of early") == "2 good frames of early"


def test_a_consumer_one_event_behind_is_described_in_the_singular() -> None:
    journal = JournalState(journal_id="j", first_seq=3, last_seq=3, unjournalled=1)
    words = describe_consumer(Consumer(acked_seq=1, connected=True), journal)
    assert words.startswith("connected; 1 event behind, and 1 is lost:")


def test_one_lost_frame_is_described_in_the_singular() -> None:
    losses = DropMonitor()
    losses.update({"top": Account()}, 0.0)
    (words,) = losses.update({"top": Account(1, failed={"implausible": 1})}, 1.0)
    assert (
        words
        == "camera top: 0 of 1 frame inspected: frames do not show the product, or not in its usual light or focus"
    )
