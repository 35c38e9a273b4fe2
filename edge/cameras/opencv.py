"""What cameras that are read through OpenCV have in common."""

import os

import cv2


def keep_quiet() -> None:
    """Have OpenCV and its FFmpeg write nothing to standard error: what goes wrong is told as an error of ours."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first capture of this process is opened
    # OpenCV 5 has moved it.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)
