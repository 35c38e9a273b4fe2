"""The frame ledger: every frame that a camera announced ends in exactly one bin.

    captured == inspected + sum(dropped) + sum(failed) + in_flight

A frame is in flight from its capture until its event is passed to the publisher; then it is booked, in one place.
Frames of one camera are numbered 1, 2, 3, ... as they are captured; lost frames have numbers too.
"""

import threading
from collections import Counter

from heatline.edge.wire.events import Account


class Ledger:
    """Counts the frames of all cameras. Any thread may book and read; all accounts that it returns are balanced."""

    def __init__(self, cameras: list[str]) -> None:
        self._lock = threading.Lock()
        self._counts = {camera: Counter[tuple[str, str]]() for camera in cameras}

    def captured(self, camera: str, frames: int = 1) -> int:
        """Book frames that the camera announced, and return the number of the first."""
        with self._lock:
            counts = self._counts[camera]
            first = counts["captured", ""] + 1
            counts["captured", ""] += frames
            return first

    def inspected(self, camera: str) -> None:
        self._book(camera, "inspected", "", 1)

    def dropped(self, camera: str, reason: str, frames: int = 1) -> None:
        self._book(camera, "dropped", reason, frames)

    def failed(self, camera: str, reason: str, frames: int = 1) -> None:
        self._book(camera, "failed", reason, frames)

    def accounts(self) -> dict[str, Account]:
        """Return all cameras' accounts at one instant."""
        with self._lock:
            return {camera: _account(counts) for camera, counts in self._counts.items()}

    def _book(self, camera: str, bin_name: str, reason: str, frames: int) -> None:
        with self._lock:
            self._counts[camera][bin_name, reason] += frames


def _account(counts: Counter[tuple[str, str]]) -> Account:
    bins: dict[str, dict[str, int]] = {"captured": {}, "inspected": {}, "dropped": {}, "failed": {}}
    for (bin_name, reason), count in counts.items():
        bins[bin_name][reason] = count
    captured, inspected = bins["captured"].get("", 0), bins["inspected"].get("", 0)
    booked = inspected + sum(bins["dropped"].values()) + sum(bins["failed"].values())
    return Account(captured, inspected, bins["dropped"], bins["failed"], captured - booked)
