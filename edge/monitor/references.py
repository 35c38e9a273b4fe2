"""Reads a line's bundle for the page: the reference of a frame, moved to where the frame shows the part, the difference
of both, and what the bundle is known to miss.
"""

import contextlib
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
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
        self._calibrations: dict[str, Calibration] = {}
        self._pictures: dict[str, dict[str, Reference]] = {}
        """By the bundle's digest, of the one that was asked for last; then by camera."""

    def calibration_of(self, status: wire.StatusEvent) -> Calibration | None:
        """Return the calibration of the line's bundle, which is read once; None: the line's file names another."""
        digest = status.bundle.digest
        if digest not in self._calibrations and (bundle := self._bundle(digest, status.product)):
            self._calibrations = {digest: bundle.manifest.calibration}
        return self._calibrations.get(digest)

    def of(self, event: wire.VerdictEvent) -> Reference | None:
        """Return what a frame was compared with; None: it was not compared, or the line uses another bundle now."""
        if event.pose is None:
            return None
        digest = event.bundle.digest
        if digest not in self._pictures and (bundle := self._bundle(digest, event.product)):
            with contextlib.suppress(HeatlineError):  # the line itself reports it
                self._pictures = {digest: bundle.references()}
        found = self._pictures.get(digest, {})
        return found.get(event.camera) or found.get("")

    def _bundle(self, digest: str, product: str | None) -> Bundle | None:
        """Return the bundle that the line's file names, if it has this digest."""
        with contextlib.suppress(HeatlineError):  # the line itself reports it
            path = load_config(self._file).of_product(product).bundle
            manifest, found = read_manifest(path)
            return Bundle(path, manifest, found) if found == digest else None
        return None

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
