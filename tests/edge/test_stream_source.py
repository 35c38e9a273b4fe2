"""The stream picture, and reports of replaced ones: none vanishes, and a slow reader still gets pictures."""

import queue
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.streams import StreamSource
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Frame, Stamp
from tests.edge.supervised import WITHIN_SECONDS, in_thread


class Stream(StreamSource[int]):
    """A camera whose pictures hold their frame id; it sends until its end is known."""

    def __init__(self) -> None:
        super().__init__("side")
        self._ends = queue.Queue[str]()

    def open(self) -> Opened:
        self.start("a device")
        return Opened(found="a device")

    def end(self, reason: str) -> None:
        self._ends.put(reason)
        self.open()
        assert self._receiver is not None
        self._receiver.join()

    def _receive(self) -> str:
        return self._ends.get()

    def _to_frame(self, stamp: Stamp, picture: int) -> Frame:
        return Frame(stamp, np.full((1, 1), picture, np.uint8), "Mono8")


def put(stream: Stream, *frame_ids: int) -> None:
    for frame_id in frame_ids:
        stream.put(Stamp("side", frame_id, camera_timestamp_ns=10 * frame_id), frame_id)


def taken(stream: Stream) -> tuple[str, int | None, int]:
    """Take an item; return its type, its first frame id and its number of frames."""
    one = stream.grab(0.0)
    assert one is not None
    return type(one).__name__, one.stamp.frame_id, one.stamp.frames


def test_a_picture_is_taken_once_and_one_that_was_replaced_is_no_run() -> None:
    stream = Stream()
    put(stream, 1)
    one = stream.grab(0.0)
    assert isinstance(one, Frame)
    assert (one.stamp.frame_id, one.image[0, 0]) == (1, 1)
    assert stream.grab(0.0) is None
    put(stream, 2, 3)
    run = stream.grab(0.0)
    assert isinstance(run, BadFrame)
    assert (run.stamp.frame_id, run.stamp.last_frame_id, run.stamp.frames) == (2, None, 1)


def test_replaced_pictures_are_reported_as_one_run_before_the_stream() -> None:
    stream = Stream()
    put(stream, 1, 2, 3, 4)
    run = stream.grab(0.0)
    assert isinstance(run, BadFrame)
    assert (run.reason, run.kind) == ("overload", "dropped")
    assert (run.stamp.frame_id, run.stamp.last_frame_id, run.stamp.frames) == (1, 3, 3)
    assert run.stamp.camera_timestamp_ns == 10
    assert "newer frames came before these were taken" in run.detail
    assert taken(stream) == ("Frame", 4, 1)


def test_a_slow_reader_gets_a_picture_every_second_time() -> None:
    stream = Stream()
    seen = []
    for frame_id in range(1, 13, 2):
        put(stream, frame_id, frame_id + 1)
        seen.append(taken(stream))
    assert seen == [
        ("BadFrame", 1, 1), ("Frame", 2, 1),
        ("BadFrame", 3, 3), ("Frame", 6, 1),
        ("BadFrame", 7, 3), ("Frame", 10, 1),
    ]  # fmt: skip


@given(steps=st.lists(st.integers(0, 3), max_size=40))
def test_every_picture_comes_once_in_order_itself_or_in_a_run(steps: list[int]) -> None:
    """Each step puts this many pictures and takes once."""
    stream, accounted, last = Stream(), list[int](), 0
    for count in steps + [0] * 4:
        put(stream, *range(last + 1, last + 1 + count))
        last += count
        one = stream.grab(0.0)
        if one is not None:
            first = one.stamp.frame_id
            assert first is not None
            assert (one.stamp.last_frame_id or first) - first + 1 == one.stamp.frames
            accounted += range(first, first + one.stamp.frames)
    assert accounted == list(range(1, last + 1))


def test_a_stored_picture_can_be_taken_after_the_end_and_then_the_reason_follows() -> None:
    stream = Stream()
    put(stream, 1, 2)
    stream.end("was unplugged")
    assert [taken(stream)[:2] for _ in range(2)] == [("BadFrame", 1), ("Frame", 2)]
    for _ in range(2):
        with pytest.raises(CameraError, match=r"^camera side: a device was unplugged$"):
            stream.grab(0.0)


@pytest.mark.parametrize(
    ("what", "came"),
    [
        (lambda stream: put(stream, 1), Frame),
        (lambda stream: stream.end("over"), CameraError),
        (lambda stream: stream.interrupt(), type(None)),
    ],
    ids=["a picture", "the end", "an interruption"],
)
def test_a_take_that_waits_ends_with(what: Callable[[Stream], None], came: type) -> None:
    stream, taken = Stream(), list[object]()

    def take() -> None:
        try:
            taken.append(stream.grab(3600.0))
        except CameraError as error:
            taken.append(error)

    thread = in_thread(take)
    what(stream)
    thread.join(WITHIN_SECONDS)
    assert [type(one) for one in taken] == [came]


def test_nothing_is_taken_after_an_interruption() -> None:
    stream = Stream()
    put(stream, 1)
    stream.interrupt()
    stream.end("over")
    assert stream.grab(3600.0) is None
