"""How a camera is, and word of its death and its return."""

from dataclasses import dataclass
from typing import Literal

import msgspec

State = Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """How a camera is. IDLE: it waits for a trigger and answers when it is asked."""

    state: State
    reason: str | None = None
    """Why it is dead, one word."""
    detail: str | None = None
    since_at_ns: int
    """UTC, ns since 1970."""
    openings: int = 0
    """How often it was opened since the start."""
    counters: dict[str, int] = {}
    """What its transport counted since it was opened, as far as it tells."""


@dataclass(frozen=True)
class CameraAlarm:
    """A camera died, or is back. Told once each."""

    camera: str
    reason: str
    detail: str
    active: bool
    began_at_ns: int
    """UTC, ns since 1970."""
