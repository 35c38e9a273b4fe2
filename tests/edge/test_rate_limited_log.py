"""Repeated faults are logged at once, and then as sums."""

import logging

import pytest

from heatline.edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED, FaultLog, RateLimit, RateLimitedLog


def test_the_first_occurrence_is_due_at_once_and_later_ones_as_sums() -> None:
    now_s = 100.0
    limit = RateLimit(lambda: now_s)
    assert limit.due() == 0
    limit.add()
    assert limit.due() == 1
    limit.add()
    limit.add()
    assert limit.due() == 0
    now_s += SECONDS_BETWEEN_LOGGED
    assert limit.due() == 2
    now_s += SECONDS_BETWEEN_LOGGED
    assert limit.due() == 0


def test_a_flood_of_faults_is_one_log_line_every_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    log = RateLimitedLog(logging.getLogger("edge.test"), lambda: now_s)
    for number in range(3):
        log.error("fault %d", number)
    now_s += SECONDS_BETWEEN_LOGGED
    log.error("fault %d", 3, exc_info=ValueError("bad"))
    assert [record.getMessage() for record in caplog.records] == ["fault 0", "fault 3"]
    assert caplog.records[1].exc_info is not None


def test_a_fault_that_comes_and_goes_is_logged_with_its_end_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    caplog.set_level(logging.INFO)
    log = FaultLog(logging.getLogger("edge.test"), clock=lambda: now_s)
    log.end("connected")
    for _ in range(3):
        log.begin("lost")
        log.begin("lost")
        log.end("connected")
    now_s += SECONDS_BETWEEN_LOGGED
    log.begin("refused", "; wait")
    log.begin("lost")
    assert [record.getMessage() for record in caplog.records] == ["lost", "connected", "refused; wait"]
    now_s += SECONDS_BETWEEN_LOGGED
    log.begin("lost")
    assert caplog.records[-1].getMessage() == "lost", "a fault that took another's place"
