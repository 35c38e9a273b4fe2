"""The state of a camera, and the alarm that reports its death or its recovery."""

from dataclasses import dataclass
from typing import Literal

State = Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]


@dataclass(frozen=True)
class CameraAlarm:
    """Report that a camera died (`active`) or recovered."""

    camera: str
    reason: str
    detail: str
    active: bool
    began_at_ns: int
    """UTC, ns since 1970."""
