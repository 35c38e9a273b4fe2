"""Repeated faults are logged at once, and then as sums."""

import logging

import pytest

from edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED, RateLimit, RateLimitedLog


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
