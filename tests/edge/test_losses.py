"""What is said of cameras whose frames are not inspected: when it begins, while it lasts, and when it is over."""

import logging

import pytest

from edge.inspection.ledger import Account
from edge.service.losses import WINDOW_SECONDS, Losses


def test_a_camera_whose_frames_are_inspected_is_not_worth_a_word() -> None:
    losses = Losses()
    for second in range(30):
        assert losses.look({"top": Account(captured=10 * second, inspected=10 * second)}, float(second)) == []


def test_one_that_sees_nothing_is_named_with_its_most_frequent_reason() -> None:
    losses = Losses()
    losses.look({"top": Account(), "side": Account()}, 0.0)
    top = Account(260, 1, {"deadline": 88, "overload": 171}, {}, 0)
    said = losses.look({"top": top, "side": Account(5, 5)}, 1.0)
    assert said == ["camera top: 1 of 260 frames inspected (dropped.overload)"]


def test_only_the_last_seconds_count() -> None:
    losses = Losses()
    lost = Account(100, 0, {}, {"wrong_size": 100}, 0)
    losses.look({"top": Account()}, 0.0)
    assert losses.look({"top": lost}, 1.0) == ["camera top: 0 of 100 frames inspected (failed.wrong_size)"]
    well = Account(150, 50, {}, {"wrong_size": 100}, 0)
    for second in range(2, 2 + 2 * int(WINDOW_SECONDS)):
        said = losses.look({"top": well}, float(second))
    assert said == []


def test_frames_in_flight_are_not_lost() -> None:
    losses = Losses()
    losses.look({"top": Account()}, 0.0)
    assert losses.look({"top": Account(captured=4, in_flight=4)}, 1.0) == []


def test_it_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge.service.losses")
    losses = Losses()
    losses.look({"top": Account()}, 0.0)
    lost = Account(10, 0, {"overload": 10}, {}, 0)
    for second in (1.0, 2.0, 3.0):
        losses.look({"top": lost}, second)
    for second in range(20, 60):
        losses.look({"top": Account(10 + second, second, {"overload": 10}, {}, 0)}, float(second))
    assert [record.getMessage() for record in caplog.records] == [
        "camera top: 0 of 10 frames inspected (dropped.overload)",
        "camera top: its frames are inspected again",
    ]
