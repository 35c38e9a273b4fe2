"""The page of a line: starts what reads the line, and serves its application."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from heatline.edge.config import WebConfig, load_config
from heatline.edge.errors import ConfigError, HeatlineError
from heatline.edge.labels.collected import collect_folder
from heatline.edge.labels.folder import LabelFolder
from heatline.edge.monitor.activation import use_bundle
from heatline.edge.monitor.api import HANDLERS, Api, Choose
from heatline.edge.monitor.collector import Collector
from heatline.edge.monitor.label_page import Labelling
from heatline.edge.monitor.live import Live
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import MOST_SLOTS, Picture, add_step, picture_socket
from heatline.edge.monitor.server import STATIC, run_server
from heatline.edge.monitor.shadow import shadow_folder
from heatline.edge.monitor.store import EvidenceStore, evidence_of
from heatline.edge.target import KeyFiles, endpoint_of, file_of, journal_of, name_of

logger = logging.getLogger(__name__)


def not_chosen(_: Picture) -> str:
    """Answer for a page beside which no recorder runs."""
    return "only the page that the line itself serves stores pictures: add [web] and [evidence] to its file"


def serve(line: str, listen: str | None, announce: Callable[[str], None], choose: Choose = not_chosen) -> None:
    """Serve the page of a line until SIGTERM or Ctrl-C.

    Args:
        listen: `HOST:PORT`; None: as the line's file says.
        announce: is given the page's address once it can be opened.
        choose: as for `Api`.
    """
    file = file_of(line)
    config = load_config(file)
    web = config.web or WebConfig()
    address, keys = endpoint_of(line, "events", KeyFiles())
    journal = journal_of(line)
    memory = Memory(cameras=[camera.name for camera in config.cameras])
    metrics = Metrics(memory)
    collector = Collector(
        memory,
        metrics,
        address=address,
        keys=keys,
        journal=journal,
        pictures=picture_socket(file),
        slots=min(len(config.cameras) + 1, MOST_SLOTS),  # cameras may be triggered at once
    )
    store = None
    with contextlib.suppress(ConfigError):  # it stores no pictures, or has no folder for them: the line reports that
        store = EvidenceStore(evidence_of(line))
    app = application(file, name_of(line), memory, metrics, store, picture_socket(file), journal, choose)
    how = "set token_file or client_ca under [web] in the line's file"
    threading.excepthook = _end_at_a_bug
    run_server(app, web, listen or web.listen, announce, how, config.security, beside=collector)


def application(
    file: Path,
    line: str,
    memory: Memory,
    metrics: Metrics,
    store: EvidenceStore | None,
    socket: Path,
    journal: Path,
    choose: Choose = not_chosen,
) -> Starlette:
    """Return the application, which is not protected yet. Arguments: as for `Api`."""
    beside, labelling = None, list[BaseRoute]()
    with contextlib.suppress(HeatlineError):  # the line reports it
        config = load_config(file)
        if config.bundle is None or collect_folder(file, config).is_dir():
            folder = LabelFolder(collect_folder(file, config))
            note = partial(add_step, socket)
            labelling = Labelling(folder, use=partial(use_bundle, str(file)), note=note).routes()
        beside = EvidenceStore(shadow_folder(file, config))
    live = Live(line, memory)
    memory.listener = live.notify
    api = Api(line, memory, metrics, store, beside, file, socket, journal, choose)

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})),
            WebSocketRoute("/live", live.serve),
            *api.routes(),
            *labelling,
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers=HANDLERS,
    )


def _end_at_a_bug(failed: threading.ExceptHookArgs) -> None:
    """End this process, which the line starts again: a page that stands still is worse."""
    logger.error("the page ends", exc_info=failed.exc_value)
    os.kill(os.getpid(), signal.SIGTERM)
