"""What a line's cameras show: of which size, how often, and a picture of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.cameras.settings import CameraSettings, GenicamSettings, PatternSettings, V4l2Settings
from edge.config import LineConfig
from edge.errors import BenchError, CameraError
from edge.frames import Frame
from edge.service.line import open_cameras

FIRST_FRAME_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Shown:
    """One camera's frames."""

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
    """What the cameras of a line show. A camera of which nothing tells the size is opened, and its first frame taken.

    Args:
        frame_hw: of all of them, whatever the file says; None: as the file says.
        rate_fps: the same.
    Raises:
        BenchError: nothing tells a size or a rate.
        CameraError, MissingExtraError: a camera cannot be opened.
    """
    rates = {camera.name: _rate(camera, rate_fps) for camera in config.cameras}
    sizes = {camera.name: _size(camera, frame_hw) for camera in config.cameras}
    unknown = [camera for camera in config.cameras if sizes[camera.name] is None]
    pictures = _first_frames(unknown)
    for name, hw in sizes.items():
        if hw is not None:
            pictures[name] = good_picture(bundle, hw)
    return [Shown(camera.name, rates[camera.name], pictures[camera.name]) for camera in config.cameras]


def good_picture(bundle: Bundle, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The golden tile that looks best, again and again: on a line that runs well nearly all frames are good."""
    golden, grid = bundle.golden(), bundle.manifest.grid
    pitch = grid.tile_px - grid.overlap_px
    best = golden.tiles[golden.logit.argmin(), :pitch, :pitch]
    times = [-(-side // pitch) for side in hw]
    return np.ascontiguousarray(np.tile(best, (*times, 1))[: hw[0], : hw[1]])


def _rate(camera: CameraSettings, asked_fps: float | None) -> float:
    rate_fps = asked_fps or getattr(camera, "rate_fps", None)
    if rate_fps is None:
        raise BenchError(f"nothing tells how many frames a second camera {camera.name} shows; say it with --fps")
    return float(rate_fps)


def _size(camera: CameraSettings, asked_hw: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width, px; None where only the camera knows."""
    told: tuple[int, int] | None = None  # width, height
    match camera:
        case _ if isinstance(camera.size, tuple):
            told = camera.size
        case PatternSettings():
            told = camera.draw_size
        case V4l2Settings():
            told = camera.frame_size
        case GenicamSettings(region=(_, _, width, height)):
            told = width, height
    if asked_hw is None:
        return None if told is None else (told[1], told[0])
    if (camera.roi or camera.exclude) and told != asked_hw[::-1]:
        raise BenchError(
            f"camera {camera.name} says where to look in frames of {camera.size}, and --size asks for "
            f"{asked_hw[1]}x{asked_hw[0]}; leave --size out"
        )
    return asked_hw


def _first_frames(cameras: Sequence[CameraSettings]) -> dict[str, NDArray[np.uint8]]:
    for camera in cameras:
        if camera.triggered != "free":
            raise BenchError(
                f"camera {camera.name} shows nothing until it is triggered, and nothing tells its size; say it with "
                "--size"
            )
    found: dict[str, NDArray[np.uint8]] = {}
    if not cameras:
        return found
    logging.getLogger("edge.cameras").setLevel(logging.CRITICAL)  # the error says it
    with open_cameras(cameras, lambda _: None, all_must_open=True) as opened:
        for name, each in opened.items():
            frame = each.camera.grab(FIRST_FRAME_WITHIN_SECONDS)
            if not isinstance(frame, Frame):
                why = "none came" if frame is None else frame.detail
                raise CameraError(f"camera {name}: its first frame cannot be used: {why}; or say its size with --size")
            found[name] = np.array(frame.image, np.uint8)  # RGB, as every camera's process delivers it
            frame.release()
    return found
