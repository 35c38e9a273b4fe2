"""Who waits for a disk through a thread of its own waits so long, and no longer."""

import threading
from pathlib import Path

import pytest

from edge.delivery.journal.disk_thread import DiskThread
from edge.delivery.journal.errors import JournalHungError
from tests.command import WITHIN_SECONDS

FOLDER = Path("/var/lib/heatline/line1")


def test_a_call_returns_and_raises_what_it_would_have_without(tmp_path: Path) -> None:
    disk = DiskThread(tmp_path)
    assert disk.run(lambda: 7, WITHIN_SECONDS) == 7
    with pytest.raises(ZeroDivisionError):
        disk.run(lambda: 1 // 0, WITHIN_SECONDS)
    assert disk.run(threading.get_ident, WITHIN_SECONDS) == disk.run(threading.get_ident, WITHIN_SECONDS)
    assert disk.run(threading.get_ident, WITHIN_SECONDS) != threading.get_ident()
    assert disk.close(lambda: None, WITHIN_SECONDS)


def test_while_a_call_is_late_no_other_is_made_or_waited_for() -> None:
    disk, answers, made = DiskThread(FOLDER), threading.Event(), list[int]()
    with pytest.raises(JournalHungError, match="the disk of /var/lib/heatline/line1 does not answer; check the disk"):
        disk.run(answers.wait, 0)
    assert disk.busy
    with pytest.raises(JournalHungError):
        disk.run(lambda: made.append(1), threading.TIMEOUT_MAX)
    assert not disk.close(lambda: made.append(2), 0)
    answers.set()
    assert disk._thread is not None
    disk._thread.join(WITHIN_SECONDS)
    assert not disk._thread.is_alive()
    assert made == [2], "the last call is made all the same"
