"""The handshake: whether the next part may come, and why not. docs/protocol.md says what a PLC makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.cameras.state import CameraState
from edge.wire.events import Handshake, HandshakeState, State

STALLED_AFTER_SECONDS = 5.0
"""Nothing came out of the last stage for so long."""


@dataclass(frozen=True)
class Reason:
    """Why a line is not READY."""

    state: HandshakeState
    word: str
    sentence: str


def reasons(
    state: State,
    cameras: Mapping[str, CameraState],
    *,
    quiet_for_s: float,
    seen_through: bool = True,
    stopping: bool = False,
    changing: str | None = None,
    losses: Sequence[str] = (),
    fell_back: str | None = None,
    unrecorded: str | None = None,
    unjournalled: str | None = None,
    unremembered: str | None = None,
) -> list[Reason]:
    """All that keeps a line from being READY, the gravest first.

    Args:
        quiet_for_s: since when nothing came out of the last stage.
        seen_through: whether anything has come out of it yet.
        stopping: whether it takes no new frames any more.
        changing: what is being made ready.
        losses: whose frames are not inspected, a sentence each.
        fell_back: in which precision it computes, where not in the one that was asked for.
        unrecorded: why nobody would know after a crash what was in flight.
        unjournalled: why events are not kept.
        unremembered: why the product in force would not be in force after a restart.
    """
    found = []
    if state == "STARTING" or (state == "RUNNING" and not seen_through):
        found.append(Reason("NOT_READY", "starting", "it is starting"))
    if state == "STOPPED" or stopping:
        found.append(Reason("NOT_READY", "stopping", "it has stopped" if state == "STOPPED" else "it is stopping"))
    if quiet_for_s > STALLED_AFTER_SECONDS:
        quiet = f"nothing came out of the inspection for {int(quiet_for_s)} s"
        found.append(Reason("NOT_READY", "stalled", quiet))
    # While a change is made ready, cameras that are set anew are opened: that is no fault of theirs.
    opening = [name for name, how in cameras.items() if how.state == "OPENING" and changing is None]
    there = [name for name, how in cameras.items() if how.state not in ("DEAD", "ENDED") and name not in opening]
    if not there and any(how.state != "ENDED" for how in cameras.values()):
        found.append(Reason("NOT_READY", "no_camera", "no camera is there"))
    if changing is not None:
        found.append(Reason("BUSY", "changing", f"{changing} is being made ready"))
    dead = [f"camera {name} is dead ({how.reason})" for name, how in cameras.items() if how.reason is not None]
    dead += [f"camera {name} is being opened" for name in opening]
    found += [Reason("DEGRADED", "camera_dead", sentence) for sentence in dead]
    found += [Reason("DEGRADED", "frames_lost", sentence) for sentence in losses]
    if fell_back is not None:
        found.append(Reason("DEGRADED", "precision", f"in {fell_back}"))
    if unjournalled is not None:
        found.append(Reason("DEGRADED", "unjournalled", unjournalled))
    if unrecorded is not None:
        found.append(Reason("DEGRADED", "unrecorded", unrecorded))
    if unremembered is not None:
        found.append(Reason("DEGRADED", "unremembered", unremembered))
    return found


def handshake(found: Sequence[Reason], heartbeat: int) -> Handshake:
    """What all of this comes to."""
    if not found:
        return Handshake(state="READY", heartbeat=heartbeat)
    return Handshake(
        state=found[0].state,
        reason=found[0].word,
        detail=in_words(found),
        heartbeat=heartbeat,
    )


def in_words(found: Sequence[Reason]) -> str:
    """All sentences as one."""
    return ", ".join(reason.sentence for reason in found)
