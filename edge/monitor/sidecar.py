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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import DeliveryError, HeatlineError, InputError
from heatline.edge.labels.collected import collect_folder, name_of
from heatline.edge.labels.folder import LabelFolder
from heatline.edge.monitor.pictures import MOST_SLOTS, PictureClient, Report, picture_socket
from heatline.edge.monitor.recorder import EvidenceWriter, Limits, Recorder, encode_frame
from heatline.edge.monitor.store import evidence_folder
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import NamedThread, yield_processor
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import state_folder
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import CollectState

logger = logging.getLogger("heatline.edge.monitor.sidecar")  # this module is __main__

Worker = Callable[[threading.Event], None]
LOOK_EVERY_SECONDS = 1.0
RETRY_PAGE_SECONDS = 10.0
LEAVE_WITHIN_SECONDS = 2.0
"""An entry in hand is completed in this time at the end, or given up."""


def keep(pictures: PictureClient, folder: Path, ended: threading.Event) -> None:
    """Keep frames of a line without a bundle that nobody asks for, until the line ends or `ended` is set; then those
    that wait. If the disk is slow, it takes fewer, and the line skips and counts others.
    """
    log = RateLimitedLog(logger)
    try:
        while (picture := pictures.receive(0 if ended.is_set() else LOOK_EVERY_SECONDS)) or not ended.is_set():
            if picture is None:
                continue
            fault = None
            try:
                # Opened each time: the folder may be moved away, and made again.
                LabelFolder(folder).put(name_of(picture.event), encode_frame(picture.image))
            except InputError as error:
                fault = utf8_safe(str(error))
                log.error("a picture was not kept: %s", fault)
            finally:
                picture.release()
            pictures.report(Report(collect=CollectState(fault=fault)))
    except DeliveryError as error:
        logger.info("%s", error)


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
        keeper = _keeper(file, config) if config.collect.keeps else None
        with contextlib.suppress(SystemExit):
            _work(file, config, recorder, keeper)
    except HeatlineError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def _work(file: Path, config: LineConfig, recorder: Recorder | None, keeper: Worker | None) -> None:
    """Serve the page, while threads store and keep pictures, until SIGTERM or the end of the line."""
    ended = threading.Event()
    workers = {"keeper": keeper, "recorder": recorder and recorder.run}
    threads = [NamedThread(name, _record, each, ended) for name, each in workers.items() if each is not None]
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
        ended.set()
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
    journal = config.journal.folder_in(state_folder())
    limits = Limits(keep_s=evidence.retain_days * 86400, keep_bytes=evidence.retain_mib << 20)
    return Recorder(client, lambda: EvidenceWriter(store, utf8_safe(file.stem), limits), journal)


def _keeper(file: Path, config: LineConfig) -> Worker:
    triggered = frozenset(camera.name for camera in config.cameras if camera.triggered != "free")
    client = PictureClient(
        picture_socket(file),
        slots=MOST_SLOTS,
        good_every=config.collect.every,
        collected="only",
        triggered=triggered if config.collect.triggered else frozenset(),
    )
    return partial(keep, client, collect_folder(file, config))


def _record(work: Worker, ended: threading.Event) -> None:
    yield_processor()
    try:
        work(ended)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
