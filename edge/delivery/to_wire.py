"""Converts the line's structs to those of the protocol, so that renaming a field inside does not change the wire."""

from heatline.edge.cameras.state import CameraState
from heatline.edge.geometry import Region
from heatline.edge.inspection.ledger import Account
from heatline.edge.wire import events


def region_to_wire(region: Region) -> events.Region:
    return events.Region(
        box_xyxy=region.box_xyxy,
        contour_xy=region.contour_xy,
        area_px=region.area_px,
        peak_xy=region.peak_xy,
        score=region.score,
    )


def account_to_wire(account: Account) -> events.Account:
    return events.Account(
        captured=account.captured,
        inspected=account.inspected,
        dropped=account.dropped,
        failed=account.failed,
        in_flight=account.in_flight,
    )


def camera_to_wire(camera: CameraState) -> events.CameraState:
    return events.CameraState(
        state=camera.state,
        reason=camera.reason,
        detail=camera.detail,
        since_at_ns=camera.since_at_ns,
        openings=camera.openings,
        counters=camera.counters,
    )
