"""The state of a camera, and the alarm that reports its death or its recovery."""

from dataclasses import dataclass
from typing import Literal

import msgspec

State = Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a camera. IDLE: it waits for a trigger and answers requests."""

    state: State
    reason: str | None = None
    """One word for the fault of a dead camera."""
    detail: str | None = None
    since_at_ns: int
    """UTC, ns since 1970."""
    openings: int = 0
    """How often the camera was opened since the service started."""
    counters: dict[str, int] = {}
    """Counters of the transport since the camera was opened; empty if it has none."""


@dataclass(frozen=True)
class CameraAlarm:
    """Report that a camera died (`active`) or recovered."""

    camera: str
    reason: str
    detail: str
    active: bool
    began_at_ns: int
    """UTC, ns since 1970."""
