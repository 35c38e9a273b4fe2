"""The state of a line as OPC 40100-1, Machine Vision Control, numbers it. A line that is not heard is in error."""

from enum import IntEnum

from heatline.edge.wire.events import Handshake, StatusEvent


class VisionState(IntEnum):
    """StateNumbers of VisionStateMachineType and VisionAutomaticModeStateMachineType, version 1.00."""

    PREOPERATIONAL = 1
    HALTED = 2
    ERROR = 3
    INITIALIZED = 5
    READY = 6
    SINGLE_EXECUTION = 7
    CONTINUOUS_EXECUTION = 8


def vision_state(status: StatusEvent | None, handshake: Handshake) -> VisionState:
    """Return the state.

    Args:
        status: the last one that came.
        handshake: as of now, `NOT_READY` if the line is not heard.
    """
    if status is None:
        return VisionState.ERROR
    match handshake.state:
        case "NOT_READY":
            not_begun = {"starting": VisionState.PREOPERATIONAL, "stopping": VisionState.HALTED}
            return {**not_begun, "stopped": VisionState.HALTED}.get(handshake.reason or "", VisionState.ERROR)
        case "BUSY":
            return VisionState.INITIALIZED
    states = {camera.state for camera in status.cameras.values()}
    if "IDLE" not in states:
        return VisionState.CONTINUOUS_EXECUTION if "LIVE" in states else VisionState.READY
    in_flight = any(account.in_flight for account in status.ledger.values())
    return VisionState.SINGLE_EXECUTION if in_flight else VisionState.READY
