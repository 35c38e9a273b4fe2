"""Keeps frames of a line without a bundle that nobody asks for: each n-th, and those of cameras with a trigger.

It has the lowest priority. If the disk is slow, it takes fewer frames, and the line skips and counts others.
"""

import logging
import threading
from pathlib import Path

from heatline.edge.config import LineConfig
from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.labels.collected import collect_folder, name_of
from heatline.edge.labels.folder import LabelFolder
from heatline.edge.monitor.pictures import MOST_SLOTS, Picture, PictureClient, picture_socket
from heatline.edge.monitor.recorder import encode_frame
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 1.0


class Keeper:
    """Keeps frames until the line ends or `stop` is called; then those that wait.

    Args:
        file: of the line.
    Raises:
        DeliveryError: the line does not run.
    """

    def __init__(self, file: Path, config: LineConfig) -> None:
        self._folder = collect_folder(file, config)
        triggered = [camera.name for camera in config.cameras if camera.triggered != "free"]
        self._pictures = PictureClient(
            picture_socket(file),
            slots=MOST_SLOTS,
            good_every=config.collect.every,
            collected="only",
            triggered=frozenset(triggered if config.collect.triggered else ()),
        )
        self._log = RateLimitedLog(logger)
        self._ended = threading.Event()

    def stop(self) -> None:
        """End after the frames that wait. Any thread."""
        self._ended.set()

    def run(self) -> None:
        """Keep what comes."""
        try:
            while True:
                picture = self._pictures.receive(0 if self._ended.is_set() else LOOK_EVERY_SECONDS)
                if picture is not None:
                    self._keep(picture)
                elif self._ended.is_set():
                    return
        except DeliveryError as error:
            logger.info("%s", error)

    def _keep(self, picture: Picture) -> None:
        fault = None
        try:
            # Opened each time: the folder may be moved away, and made again.
            LabelFolder(self._folder).keep(name_of(picture.event), encode_frame(picture.image))
        except InputError as error:
            fault = utf8_safe(str(error))
            self._log.error("a picture was not kept: %s", fault)
        finally:
            picture.release()
        self._pictures.report_keeping(fault)
