"""Shows the reference picture of a frame where the frame shows the part, and the difference of both."""

from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.store import Bundle, read_manifest
from heatline.edge.config import load_config
from heatline.edge.errors import HeatlineError
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import to_grey
from heatline.edge.reference.reference import Reference
from heatline.edge.wire import events as wire

UNMOVED = wire.Pose(x_px=0, y_px=0, degrees=0, confidence=0, error_px=0)
"""Of a misaligned frame: its own pose is not to be relied on."""


class References:
    """The reference pictures of a line's bundle. Any thread may use it, but not the event loop: it reads the disk.

    Args:
        file: the line's file, which names its bundles.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: tuple[str, dict[str, Reference]] = "", {}
        """Digest of the bundle that was asked for last, and its pictures by camera."""

    def of(self, event: wire.VerdictEvent) -> Reference | None:
        """Return what a frame was compared with; None: it was not compared, or the line uses another bundle now."""
        if event.pose is None:
            return None
        digest, found = self._known
        if digest != event.bundle.digest:
            try:
                path = load_config(self._file).of_product(event.product).bundle
                manifest, digest = read_manifest(path)
                if digest != event.bundle.digest:
                    return None
                found = Bundle(path, manifest, digest).references()
            except HeatlineError:  # the line itself reports it
                return None
            self._known = digest, found
        return found.get(event.camera) or found.get("")

    def moved(self, picture: HeldPicture) -> NDArray[np.uint8] | None:
        """Return the reference as the frame shows it, RGB [H, W, 3]; None: as `of`.

        Px that the reference does not show are those of the frame.
        """
        if (reference := self.of(picture.event)) is None:
            return None
        image = picture.image
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
        matrix, size = _motion(picture.event, reference)
        moved = cv2.warpAffine(reference.rgb, matrix, size, dst=rgb, borderMode=cv2.BORDER_TRANSPARENT)
        return np.asarray(moved, np.uint8)

    def difference(self, picture: HeldPicture) -> NDArray[np.uint8] | None:
        """Return how far each px of the frame lies beyond the reference's grey within 1 px, grey [H, W]; None: as `of`.

        Before that, the frame gets the brightness of the reference. Px that the reference does not show or does not
        know do not differ.
        """
        if (reference := self.of(picture.event)) is None:
            return None
        grey = picture.image if picture.image.ndim == 2 else to_grey(picture.image)
        matched = cv2.convertScaleAbs(grey, alpha=(np.median(reference.grey) + 1) / (np.median(grey) + 1))
        matrix, size = _motion(picture.event, reference)
        low, high = (
            cv2.warpAffine(plane, matrix, size, borderValue=beyond)
            for plane, beyond in zip(reference.range.planes[0], (0, 255), strict=True)
        )
        return np.asarray(cv2.max(cv2.subtract(matched, high), cv2.subtract(low, matched)), np.uint8)


def _motion(event: wire.VerdictEvent, reference: Reference) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the matrix that moves the reference to where the frame shows it, and the frame's width and height."""
    pose = UNMOVED if event.pose is None or event.reason == "failed.misaligned" else event.pose
    height, width = reference.frame_hw
    return Pose(**msgspec.structs.asdict(pose)).matrix((height, width)), (width, height)
