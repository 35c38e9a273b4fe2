"""Changes of the bundle, the threshold and the product while the line inspects."""

from collections.abc import Callable
from typing import Any

from common import LINE, events, line, until_it_inspects
from machine import HEATLINE, Event, run

COMMANDS = "tcp://127.0.0.1:5557"


def to_a_better_bundle() -> dict[str, Any]:
    return _reload(lambda text: text.replace('"boards.bundle"', '"better.bundle"', 1))


def to_another_threshold() -> dict[str, Any]:
    """Set a threshold that changes the verdict on a picture."""
    last = [event for event in events.since(0) if event.get("source") == "001.png"][-1]
    other = last["frame_score"] + (1.0 if last["verdict"] == "DEFECT" else -1.0)
    result = _reload(lambda text: text.replace("[thresholds]\n", f"[thresholds]\nscore = {other}\n", 1))
    again = events.until("that picture again", lambda event: event.get("source") == "001.png", events.mark())
    return {**result, "before": last, "after": again, "threshold": other}


def to_a_broken_bundle() -> dict[str, Any]:
    return _reload(lambda text: text.replace('"better.bundle"', '"broken.bundle"', 1), back=True)


def to_nonsense() -> dict[str, Any]:
    return _reload(lambda text: text.replace("rate_fps", "rate_fpm"), back=True)


def to_another_product() -> dict[str, Any]:
    """Select another product over ZeroMQ, as a PLC's gateway does."""
    mark, pid = events.mark(), line.pid()
    ended = run(HEATLINE, "select", COMMANDS, "lids", "--json")
    return {**_changed(mark, pid), **ended}


def _reload(edit: Callable[[str], str], back: bool = False) -> dict[str, Any]:
    """Edit the line's file and reload the line; `back`: restore the file afterwards."""
    before, mark, pid = LINE.read_text(), events.mark(), line.pid()
    after = edit(before)
    assert after != before
    LINE.write_text(after)
    ended = line.systemctl("reload")
    result = _changed(mark, pid)
    if back:
        LINE.write_text(before)
    return {**result, **ended}


def _changed(mark: int, pid: int) -> dict[str, Any]:
    """Wait for the change event and for later verdicts of all cameras; return the result."""
    change = events.until("the change event", _is_change, mark)
    until_it_inspects(events.mark())
    summary = "active" if change["applied"] else f"refused, {change['detail']}"
    shown = line.show()
    return {"summary": summary, "change": change, "same_process": line.pid() == pid, "shown": shown}


def _is_change(event: Event) -> bool:
    return bool(event["type"] == "change")
