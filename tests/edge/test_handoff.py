"""The bounded hand-off: its three policies, the order of lanes, closing, and real threads."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.settings import Policy
from heatline.edge.inspection.handoff import Handoff, Lane

WITHIN_SECONDS = 20.0


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(WITHIN_SECONDS)
    return not thread.is_alive()


def drained(handoff: Handoff[int]) -> list[int]:
    """Close the hand-off and return all waiting items."""
    handoff.close()
    items: list[int] = []
    while (item := handoff.get()) is not None:
        items.append(item)
    return items


def test_a_full_blocking_lane_makes_its_camera_wait() -> None:
    handoff = Handoff[int]({"top": Lane(3, "block")})
    cameras = [in_thread(lambda item=item: handoff.put("top", item)) for item in range(8)]  # type: ignore[misc]
    taken = []
    for _ in range(8):
        assert handoff.waiting() <= 3
        taken.append(handoff.get())
    assert sorted(item for item in taken if item is not None) == list(range(8))
    assert all(ended(camera) for camera in cameras)


def test_a_full_lane_does_not_starve_another_lane() -> None:
    handoff = Handoff[int]({"a": Lane(1, "drop_oldest"), "b": Lane(1, "block"), "c": Lane(1, "block")})
    handoff.put("b", 1)
    handoff.put("c", 2)
    seen = []
    for _ in range(3):
        handoff.put("a", 0)
        seen.append(handoff.get())
    assert sorted(item for item in seen if item is not None) == [0, 1, 2]


def test_closing_ends_a_waiting_get_and_a_waiting_put() -> None:
    handoff, got, lost = Handoff[int]({"top": Lane(1, "block")}), list[int | None](), list[int | None]()
    stage = in_thread(lambda: got.append(handoff.get()))
    handoff.close()
    assert ended(stage)
    assert got == [None]
    handoff = Handoff[int]({"top": Lane(1, "block")})
    handoff.put("top", 1)
    camera = in_thread(lambda: lost.append(handoff.put("top", 2)))
    handoff.close()
    assert ended(camera)
    assert lost == [2], "its item is handed back"
    assert (handoff.get(), handoff.get()) == (1, None)


@pytest.mark.parametrize("lane", [Lane(2, "block"), Lane(2, "drop_oldest"), Lane(2, "drop_newest")])
def test_after_closing_waiting_items_still_leave_and_new_ones_are_refused(lane: Lane) -> None:
    handoff = Handoff[int]({"top": lane})
    handoff.put("top", 1)
    handoff.put("top", 2)
    before = handoff.closed
    handoff.close()
    assert (before, handoff.closed) == (False, True)
    assert handoff.put("top", 3) == 3, "handed back, not lost"
    assert [handoff.get() for _ in range(4)] == [1, 2, None, None]


@given(
    capacity=st.integers(1, 4),
    steps=st.lists(st.sampled_from(["put old", "put new", "get"]), max_size=40),
)
def test_every_item_leaves_or_is_returned_exactly_once(capacity: int, steps: list[str]) -> None:
    handoff = Handoff[int]({"old": Lane(capacity, "drop_oldest"), "new": Lane(capacity, "drop_newest")})
    expected: dict[str, list[int]] = {"old": [], "new": []}
    put, out = 0, list[int]()
    for step in steps:
        if step == "get":
            if handoff.waiting():
                item = handoff.get()
                assert item in {items[0] for items in expected.values() if items}, "the oldest of a lane"
                out.append(item)
                expected = {lane: [each for each in items if each != item] for lane, items in expected.items()}
            continue
        put += 1
        lane = step.removeprefix("put ")
        lost = handoff.put(lane, put)
        expected[lane].append(put)
        if len(expected[lane]) > capacity:
            assert lost == expected[lane].pop(0 if lane == "old" else -1)
            out.append(lost)
        else:
            assert lost is None
        assert handoff.waiting() == sum(map(len, expected.values()))
    assert sorted(out + drained(handoff)) == list(range(1, put + 1))


def test_many_threads_neither_lose_nor_duplicate_an_item() -> None:
    each, policies = 1000, list[Policy](["block", "drop_oldest", "drop_newest"])
    lanes: dict[str, Lane] = {policy: Lane(2, policy) for policy in policies}
    handoff = Handoff[tuple[str, int]](lanes)
    dropped: list[tuple[str, int]] = []  # list.append is atomic

    def show(camera: str) -> None:
        for number in range(each):
            lost = handoff.put(camera, (camera, number))
            if lost is not None:
                dropped.append(lost)

    taken: list[tuple[str, int]] = []

    def take() -> None:
        while (item := handoff.get()) is not None:
            taken.append(item)

    stage = in_thread(take)
    cameras = [in_thread(lambda name=name: show(name)) for name in lanes]  # type: ignore[misc]
    assert all(ended(camera) for camera in cameras)
    handoff.close()
    assert ended(stage)
    assert sorted(taken + dropped) == sorted((name, number) for name in lanes for number in range(each))
    for name, lane in lanes.items():
        numbers = [number for camera, number in taken if camera == name]
        assert numbers == sorted(numbers), "in order within a lane"
        if lane.policy == "block":
            assert numbers == list(range(each)), "a lane that blocks loses nothing"
