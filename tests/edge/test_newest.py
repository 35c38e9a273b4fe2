"""The newest picture, and reports of replaced ones: none vanishes, and a slow reader still gets pictures."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.newest import NewestPicture, ReceivedPicture
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Stamp
from tests.edge.supervised import WITHIN_SECONDS, in_thread


def put(newest: NewestPicture[str], *frame_ids: int) -> None:
    for frame_id in frame_ids:
        newest.put(ReceivedPicture(Stamp("side", frame_id, camera_timestamp_ns=10 * frame_id), f"picture {frame_id}"))


def taken(newest: NewestPicture[str]) -> tuple[str, int | None, int]:
    """Take an item; return its type, its first frame id and its number of frames."""
    one = newest.take(0.0)
    assert one is not None
    return type(one).__name__, one.stamp.frame_id, one.stamp.frames


def test_a_picture_is_taken_once_and_one_that_was_replaced_is_no_run() -> None:
    newest = NewestPicture[str]()
    put(newest, 1)
    one = newest.take(0.0)
    assert isinstance(one, ReceivedPicture)
    assert (one.stamp.frame_id, one.picture) == (1, "picture 1")
    assert newest.take(0.0) is None
    put(newest, 2, 3)
    run = newest.take(0.0)
    assert isinstance(run, BadFrame)
    assert (run.stamp.frame_id, run.stamp.last_frame_id, run.stamp.frames) == (2, None, 1)


def test_replaced_pictures_are_reported_as_one_run_before_the_newest() -> None:
    newest = NewestPicture[str]()
    put(newest, 1, 2, 3, 4)
    run = newest.take(0.0)
    assert isinstance(run, BadFrame)
    assert (run.reason, run.kind) == ("overload", "dropped")
    assert (run.stamp.frame_id, run.stamp.last_frame_id, run.stamp.frames) == (1, 3, 3)
    assert run.stamp.camera_timestamp_ns == 10
    assert "newer frames came before these were taken" in run.detail
    assert taken(newest) == ("ReceivedPicture", 4, 1)


def test_a_slow_reader_gets_a_picture_every_second_time() -> None:
    newest = NewestPicture[str]()
    seen = []
    for frame_id in range(1, 13, 2):
        put(newest, frame_id, frame_id + 1)
        seen.append(taken(newest))
    assert seen == [
        ("BadFrame", 1, 1), ("ReceivedPicture", 2, 1),
        ("BadFrame", 3, 3), ("ReceivedPicture", 6, 1),
        ("BadFrame", 7, 3), ("ReceivedPicture", 10, 1),
    ]  # fmt: skip


@given(steps=st.lists(st.integers(0, 3), max_size=40))
def test_every_picture_comes_once_in_order_itself_or_in_a_run(steps: list[int]) -> None:
    """Each step puts this many pictures and takes once."""
    newest, accounted, last = NewestPicture[str](), list[int](), 0
    for count in steps + [0] * 4:
        put(newest, *range(last + 1, last + 1 + count))
        last += count
        one = newest.take(0.0)
        if one is not None:
            first = one.stamp.frame_id
            assert first is not None
            assert (one.stamp.last_frame_id or first) - first + 1 == one.stamp.frames
            accounted += range(first, first + one.stamp.frames)
    assert accounted == list(range(1, last + 1))


def test_a_stored_picture_can_be_taken_after_the_end_and_then_the_reason_follows() -> None:
    newest = NewestPicture[str]()
    put(newest, 1, 2)
    newest.end("camera side: it was unplugged")
    assert [taken(newest)[:2] for _ in range(2)] == [("BadFrame", 1), ("ReceivedPicture", 2)]
    for _ in range(2):
        with pytest.raises(CameraError, match=r"^camera side: it was unplugged$"):
            newest.take(0.0)


@pytest.mark.parametrize(
    ("what", "came"),
    [
        (lambda newest: put(newest, 1), ReceivedPicture),
        (lambda newest: newest.end("over"), CameraError),
        (lambda newest: newest.interrupt(), type(None)),
    ],
    ids=["a picture", "the end", "an interruption"],
)
def test_a_take_that_waits_ends_with(what: Callable[[NewestPicture[str]], None], came: type) -> None:
    newest, taken = NewestPicture[str](), list[object]()

    def take() -> None:
        try:
            taken.append(newest.take(3600.0))
        except CameraError as error:
            taken.append(error)

    thread = in_thread(take)
    what(newest)
    thread.join(WITHIN_SECONDS)
    assert [type(one) for one in taken] == [came]


def test_nothing_is_taken_after_an_interruption() -> None:
    newest = NewestPicture[str]()
    put(newest, 1)
    newest.interrupt()
    newest.end("over")
    assert newest.take(3600.0) is None
