"""Frames of a line's cameras: size, rate and a picture."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.settings import CameraSettings, GenicamSettings, PatternSettings, V4l2Settings
from heatline.edge.config import LineConfig
from heatline.edge.errors import BenchError, CameraError
from heatline.edge.frames import Frame
from heatline.edge.inspection.inspector import ANY_CAMERA, product_references
from heatline.edge.service.line import open_cameras

FIRST_FRAME_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Shown:
    """Frames of one camera."""

    camera: str
    rate_fps: float
    picture: NDArray[np.uint8]
    """RGB [H, W, 3]."""

    def __str__(self) -> str:
        height, width = self.picture.shape[:2]
        return f"{self.camera} {width}x{height} at {self.rate_fps:g}/s"


def shown_by(
    config: LineConfig, bundle: Bundle, *, frame_hw: tuple[int, int] | None, rate_fps: float | None
) -> list[Shown]:
    """Return the frames of a line's cameras. A camera of unknown size is opened, and its first frame taken. If the
    bundle compares frames with a reference, this is shown.

    Args:
        frame_hw: of all cameras, instead of the configured sizes; None: as configured.
        rate_fps: the same for the rate.
    Raises:
        BenchError: a size or a rate is unknown, or a reference has another size than `frame_hw`.
        BundleError: a camera has no reference.
        CameraError, MissingExtraError: a camera cannot be opened.
    """
    rates = {camera.name: _rate(camera, rate_fps) for camera in config.cameras}
    sizes = {camera.name: _size(camera, frame_hw) for camera in config.cameras}
    references = product_references(bundle, sizes)
    pictures = {name: (references.get(name) or references[ANY_CAMERA]).rgb for name in sizes if references}
    if frame_hw is not None and any(picture.shape[:2] != frame_hw for picture in pictures.values()):
        raise BenchError("frames are compared with a reference of another size; leave --size out")
    pictures |= _first_frames([camera for camera in config.cameras if not references and sizes[camera.name] is None])
    for name, hw in sizes.items():
        if name not in pictures and hw is not None:
            pictures[name] = good_picture(bundle, hw)
    return [Shown(camera.name, rates[camera.name], pictures[camera.name]) for camera in config.cameras]


def good_picture(bundle: Bundle, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the best golden tile side by side, as nearly all frames of a good line are good."""
    golden, grid = bundle.golden(), bundle.manifest.grid
    pitch = grid.tile_px - grid.overlap_px
    best = golden.tiles[golden.logit.argmin(), :pitch, :pitch]
    times = [-(-side // pitch) for side in hw]
    return np.ascontiguousarray(np.tile(best, (*times, 1))[: hw[0], : hw[1]])


def _rate(camera: CameraSettings, given_fps: float | None) -> float:
    rate_fps = given_fps or getattr(camera, "rate_fps", None)
    if rate_fps is None:
        raise BenchError(f"the rate of camera {camera.name} is unknown; give it with --fps")
    return float(rate_fps)


def _size(camera: CameraSettings, given_hw: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width, px; None if only the camera knows them."""
    known: tuple[int, int] | None = None  # width, height
    match camera:
        case _ if isinstance(camera.size, tuple):
            known = camera.size
        case PatternSettings():
            known = camera.draw_size
        case V4l2Settings():
            known = camera.frame_size
        case GenicamSettings(region=(_, _, width, height)):
            known = width, height
    if given_hw is None:
        return None if known is None else (known[1], known[0])
    if (camera.roi or camera.exclude) and known != given_hw[::-1]:
        raise BenchError(
            f"the regions of camera {camera.name} are of frames of {camera.size}, and --size is "
            f"{given_hw[1]}x{given_hw[0]}; leave --size out"
        )
    return given_hw


def _first_frames(cameras: Sequence[CameraSettings]) -> dict[str, NDArray[np.uint8]]:
    for camera in cameras:
        if camera.triggered != "free":
            raise BenchError(
                f"camera {camera.name} shows nothing until it is triggered, and its size is unknown; give --size"
            )
    found: dict[str, NDArray[np.uint8]] = {}
    if not cameras:
        return found
    logging.getLogger("heatline.edge.cameras").setLevel(logging.CRITICAL)  # the error says the same
    with open_cameras(cameras, lambda _: None, all_must_open=True) as opened:
        for name, each in opened.items():
            frame = each.camera.grab(FIRST_FRAME_WITHIN_SECONDS)
            if not isinstance(frame, Frame):
                why = "none came" if frame is None else frame.detail
                raise CameraError(f"camera {name}: its first frame cannot be used: {why}; or give its size with --size")
            found[name] = np.array(frame.image, np.uint8)  # RGB, as every camera's process delivers it
            frame.release()
    return found
