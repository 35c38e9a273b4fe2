"""The process that stores a line's pictures and serves its page: `python -m heatline.edge.monitor.sidecar FILE`.

The line starts it with a low priority. It may be killed at any moment: the line does not notice, and starts another.
Once the line has ended, it stores the pictures that wait.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import cv2

from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import DeliveryError, HeatlineError, InputError
from heatline.edge.labels.collected import collect_folder, name_of
from heatline.edge.labels.folder import LabelFolder
from heatline.edge.monitor.pictures import MOST_SLOTS, Picture, PictureClient, Report, picture_socket
from heatline.edge.monitor.recorder import EvidenceWriter, Limits, Recorder, encode_frame
from heatline.edge.monitor.store import evidence_folder
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import NamedThread, yield_processor
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import service_folder
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import CollectState

logger = logging.getLogger("heatline.edge.monitor.sidecar")  # this module is __main__

LOOK_EVERY_SECONDS = 1.0
RETRY_PAGE_SECONDS = 10.0
LEAVE_WITHIN_SECONDS = 2.0
"""An entry in hand is completed in this time at the end, or given up."""


class Keeper:
    """Keeps frames of a line without a bundle that nobody asks for, until the line ends or `stop` is called; then those
    that wait. If the disk is slow, it takes fewer, and the line skips and counts others.

    Args:
        file: of the line.
    Raises:
        DeliveryError: the line does not run.
    """

    def __init__(self, file: Path, config: LineConfig) -> None:
        self._folder = collect_folder(file, config)
        triggered = {camera.name for camera in config.cameras if camera.triggered != "free"}
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
            LabelFolder(self._folder).put(name_of(picture.event), encode_frame(picture.image))
        except InputError as error:
            fault = utf8_safe(str(error))
            self._log.error("a picture was not kept: %s", fault)
        finally:
            picture.release()
        self._pictures.report(Report(collect=CollectState(fault=fault)))


def main() -> int:
    """Work for the line whose file the first argument names; return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    cv2.setNumThreads(1)  # the other cores belong to inspection
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    file = Path(sys.argv[1])
    try:
        config = load_config(file)
        recorder = None
        try:
            recorder = None if config.evidence is None else _recorder(file, config)
        except DeliveryError as error:
            if config.web is None:
                raise
            logger.error("no pictures are stored: %s", error)
        keeper = Keeper(file, config) if config.collect.keeps else None
        with contextlib.suppress(SystemExit):
            _work(file, config, recorder, keeper)
    except HeatlineError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def _work(file: Path, config: LineConfig, recorder: Recorder | None, keeper: Keeper | None) -> None:
    """Serve the page, while threads store and keep pictures, until SIGTERM or the end of the line."""
    workers = [each for each in (keeper, recorder) if each is not None]
    threads = [NamedThread(type(each).__name__.lower(), _record, each) for each in workers]
    try:
        for thread in threads:
            thread.start()
        while config.web is not None:
            try:
                _serve(file, recorder)
            except HeatlineError as error:
                if recorder is None:
                    raise
                if recorder.web_fault != str(error):
                    logger.error("the page is not served: %s", error)
                recorder.web_fault = utf8_safe(str(error))
            time.sleep(RETRY_PAGE_SECONDS)
        yield_processor()
        while True:  # a join would not do: a signal that interrupts it marks the thread as ended
            time.sleep(RETRY_PAGE_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(LEAVE_WITHIN_SECONDS)
        if any(thread.is_alive() for thread in threads):
            logger.warning("the disk does not answer; the entry in hand is given up")
            os._exit(0)


def _serve(file: Path, recorder: Recorder | None) -> None:
    require_extra("view")
    from heatline.edge.monitor.page import not_chosen, serve

    choose = not_chosen if recorder is None else recorder.choose
    serve(str(file), None, lambda url: logger.info("the page of the line is %s", url), choose)


def _recorder(file: Path, config: LineConfig) -> Recorder:
    store, evidence = evidence_folder(file, config), config.evidence
    assert evidence is not None  # or it has no folder
    client = PictureClient(picture_socket(file), slots=MOST_SLOTS, good_every=evidence.good_every, collected="not")
    journal = config.journal.folder_in(service_folder("STATE"))
    limits = Limits(keep_s=evidence.retain_days * 86400, keep_bytes=evidence.retain_mib << 20)
    return Recorder(client, lambda: EvidenceWriter(store, utf8_safe(file.stem), limits), journal)


def _record(worker: Recorder | Keeper) -> None:
    yield_processor()
    try:
        worker.run()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
