"""From settings to the camera that they describe. Each kind's library is only loaded where it is used."""

from edge.cameras.base import FrameSource
from edge.cameras.settings import (
    CameraSettings,
    FolderSettings,
    GenicamSettings,
    PatternSettings,
    RtspSettings,
    V4l2Settings,
    VideoSettings,
)


def make_source(settings: CameraSettings) -> FrameSource:
    """The camera, not opened yet."""
    match settings:
        case FolderSettings():
            from edge.cameras.folder import FolderCamera

            return FolderCamera(settings)
        case VideoSettings():
            from edge.cameras.video import VideoCamera

            return VideoCamera(settings)
        case PatternSettings():
            from edge.cameras.pattern import PatternCamera

            return PatternCamera(settings)
        case GenicamSettings():
            from edge.cameras.genicam import GenicamCamera

            return GenicamCamera(settings)
        case V4l2Settings():
            from edge.cameras.v4l2 import V4l2Camera

            return V4l2Camera(settings)
        case RtspSettings():
            from edge.cameras.rtsp import RtspCamera

            return RtspCamera(settings)
