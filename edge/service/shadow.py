"""Judges a line's frames with its shadow bundle, in a process: `python -m heatline.edge.service.shadow FILE PRODUCT`.

The line starts it with a low priority. It may be killed at any moment. The line copies a frame for it only while it has
a place free, so a slow one costs the line less, and leaves frames out.
"""

import contextlib
import logging
import signal
import sys
import time
from pathlib import Path

import cv2
from msgspec.structs import replace

from heatline.edge.config import LineConfig, load_config
from heatline.edge.errors import DeliveryError, HeatlineError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.inspection.inspector import Setup, outcome_of
from heatline.edge.monitor.memory import Row, row_of
from heatline.edge.monitor.pictures import MOST_SLOTS, Picture, PictureClient, Report, picture_socket
from heatline.edge.monitor.recorder import EvidenceWriter, Limits
from heatline.edge.monitor.shadow import findings_file, name_of_bundle, read_findings, shadow_folder
from heatline.edge.service.changeover import prepare
from heatline.edge.util.process import yield_processor
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import ShadowState

logger = logging.getLogger("heatline.edge.service.shadow")  # this module is __main__

REPORT_EVERY_SECONDS = 2.0
"""The disk belongs to the journal. Of a process that is killed, so much is lost."""
LIMITS = Limits(keep_s=30 * 86400, keep_bytes=256 << 20)
"""Of pictures of frames on which the bundles differ."""


def main() -> int:
    """Work for the line whose file and product the arguments name, until it ends; return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    cv2.setNumThreads(1)
    yield_processor()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    file = Path(sys.argv[1])
    try:
        config = load_config(file).of_product(sys.argv[2] or None)
        with PictureClient(
            picture_socket(file), slots=min(len(config.cameras) + 1, MOST_SLOTS), collected="not"
        ) as line:
            try:
                _judge_all(line, file, config)
            except DeliveryError:
                pass  # the line has ended
            except HeatlineError as error:
                line.report(Report(shadow=ShadowState(fault=utf8_safe(str(error)))))
                raise
    except HeatlineError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def _judge_all(line: PictureClient, file: Path, config: LineConfig) -> None:
    """Judge frames as the line would with the shadow's bundle, until it has ended, which is a DeliveryError.

    The newest frame of each camera waits, so that each has its turn.
    """
    assert config.shadow is not None  # or the line starts no such process
    assert config.bundle is not None
    engine = replace(config.engine, device=PROCESSOR, threads=1, streams=1)
    setup = prepare(replace(config, bundle=config.shadow, engine=engine)).setup
    assert isinstance(setup, Setup), "it has a bundle"
    folder, of_line, own = shadow_folder(file, config), name_of_bundle(config.bundle), name_of_bundle(config.shadow)
    state, report_at_s, dropped = ShadowState(bundle=own), 0.0, 0
    waiting: dict[str, Picture] = {}
    with EvidenceWriter(folder, utf8_safe(file.stem), LIMITS) as pictures, contextlib.ExitStack() as at_end:
        path = findings_file(folder, of_line, own)
        findings = read_findings(path)
        at_end.callback(findings.write, path)
        while True:
            if time.monotonic() >= report_at_s:
                findings.write(path)
                line.report(Report(shadow=state))
                report_at_s = time.monotonic() + REPORT_EVERY_SECONDS
            while (picture := line.receive(0 if waiting else REPORT_EVERY_SECONDS)) is not None:
                dropped += picture.skipped
                if (older := waiting.get(picture.event.camera)) is not None:
                    older.release()
                    dropped += 1
                waiting[picture.event.camera] = picture
            if not waiting:
                continue
            picture = waiting.pop(next(iter(waiting)))
            event = picture.event
            if (event.product, event.bundle) == (setup.product, of_line):  # else it came before the changeover
                row = _row(picture, setup)
                findings.add(row, dropped)
                if row["verdict"] != row["shadow"]["verdict"]:
                    with contextlib.suppress(InputError):  # the disk is nearly full; the frame counts
                        pictures.write(picture)
                state = replace(state, judged=state.judged + 1, dropped=state.dropped + dropped)
                dropped = 0
            picture.release()


def _row(picture: Picture, setup: Setup) -> Row:
    """Judge a frame; return the line's verdict in short, with that of the shadow."""
    stamp, inspector = Stamp(picture.event.camera, picture.event.frame_id), setup.inspector
    frame = Frame(stamp, picture.image, "Mono8" if picture.image.ndim == 2 else "RGB8")
    started = inspector.start(frame, setup.areas.get(stamp.camera, WHOLE_FRAME))
    outcome = outcome_of(stamp, setup.finish(started))
    judgement, unjudged = outcome.judgement, outcome.unjudged
    said = {
        "verdict": judgement.verdict if judgement else "NO_VERDICT",
        "frame_score": judgement.score if judgement else None,
        "score_threshold": inspector.thresholds.score,
        "detail": utf8_safe(unjudged.detail) if unjudged else None,
    }
    return {**row_of(picture.event), "shadow": said}


if __name__ == "__main__":
    sys.exit(main())
