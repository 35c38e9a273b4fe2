"""The log shows why frames get no verdict, at a limited rate."""

import logging

import pytest

from heatline.edge.frames import Stamp
from heatline.edge.inspection.inspector import Outcome, Unjudged
from heatline.edge.service.events import ImplausibleLog
from heatline.edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED


def test_the_first_implausible_frame_is_logged_and_later_ones_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    log = ImplausibleLog(lambda: now_s)

    def see(number: int, camera: str = "top", reason: str = "implausible") -> None:
        why = f"it does not look like the product: brightness {number}, expected 60 to 140"
        log.log(Outcome(Stamp(camera, number, "a\nb.png", number=number), unjudged=Unjudged("failed", reason, why)))

    see(1, reason="unreadable")
    for number in range(2, 7):
        see(number)
    see(1, camera="side")
    now_s += SECONDS_BETWEEN_LOGGED
    see(7)
    see(8)
    see(9, camera="end", reason="misaligned")
    text = "no verdict, it does not look like the product: brightness"
    assert [record.getMessage() for record in caplog.records] == [
        f"camera top: frame 2 (a\\nb.png): {text} 2, expected 60 to 140",
        f"camera side: frame 1 (a\\nb.png): {text} 1, expected 60 to 140",
        f"camera top: frame 7 (a\\nb.png): {text} 7, expected 60 to 140",
        f"camera end: frame 9 (a\\nb.png): {text} 9, expected 60 to 140",
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
