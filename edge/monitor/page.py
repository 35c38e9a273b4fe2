"""Serves the page of a line: starts what reads the line, and the server that answers browsers."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import cv2
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from heatline.edge.config import WebConfig, load_config
from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import AccessError, ConfigError, HeatlineError
from heatline.edge.monitor.access import Access, read_token
from heatline.edge.monitor.api import Api, Choose, failed, refused
from heatline.edge.monitor.collector import Collector
from heatline.edge.monitor.held_picture import Pictures
from heatline.edge.monitor.live import LARGEST_MESSAGE, Live
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import MOST_SLOTS, Picture, picture_socket
from heatline.edge.monitor.state import State, describe
from heatline.edge.monitor.store import EvidenceStore, evidence_of
from heatline.edge.target import KeyFiles, endpoint_of, file_of, journal_of, name_of
from heatline.edge.util.listener import ACCEPTED_AT_ONCE, Listener
from heatline.edge.util.process import yield_processor

logger = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
MOST_CONNECTIONS = 128
"""A further client replaces the oldest of the address that has most."""
END_WITHIN_SECONDS = 1
"""Open connections are closed after this time at the end."""


def not_chosen(_: Picture) -> str:
    """Answer for a page beside which no recorder runs."""
    return "only the page that the line itself serves stores pictures: add [web] and [evidence] to its file"


def serve(line: str, listen: str | None, announce: Callable[[str], None], choose: Choose = not_chosen) -> None:
    """Serve the page of a line until SIGTERM or Ctrl-C.

    Args:
        listen: `HOST:PORT`; None: as the line's file says.
        announce: is given the page's address once it can be opened.
        choose: as for `Api`.
    Raises:
        HeatlineError: the line's file cannot be used, or the page cannot listen there, or would not be protected.
    """
    file = file_of(line)
    config = load_config(file)
    web = config.web or WebConfig()
    listen = listen or web.listen
    if not re.fullmatch(".+:[0-9]{1,5}", listen) or int(listen.rpartition(":")[2]) > 65535:
        raise ConfigError(f"the page's address is {listen!r}; expected HOST:PORT, PORT 0 to 65535")
    if not web.is_protected_on(listen):
        raise ConfigError(
            f"other machines can reach {listen}, and nothing protects the page; set token_file or client_ca under "
            "[web] in the line's file, or listen on this machine alone, e.g. 127.0.0.1:8420"
        )
    address, keys = endpoint_of(line, "events", KeyFiles())
    memory = Memory(cameras=[camera.name for camera in config.cameras])
    metrics = Metrics(memory)
    collector = Collector(
        memory,
        metrics,
        address=address,
        keys=keys,
        journal=journal_of(line),
        pictures=picture_socket(file),
        slots=min(len(config.cameras) + 1, MOST_SLOTS),  # cameras may be triggered at once
    )
    store = None
    with contextlib.suppress(ConfigError):  # it stores no pictures, or has no folder for them: the line reports that
        store = EvidenceStore(evidence_of(line))
    with listening_socket(listen) as bound:
        app = application(file, name_of(line), memory, metrics, store, picture_socket(file), choose)
        server = server_of(app, bound, web, only_local=is_local(f"tcp://{listen}"))
        signal.signal(signal.SIGTERM, _leave)
        threading.excepthook = _end_at_a_bug
        cv2.setNumThreads(1)  # the other cores belong to inspection
        yield_processor()
        with collector:
            announce(_url(listen, bound, web))
            server.run(sockets=[bound])


def server_of(app: Starlette, bound: socket.socket, web: WebConfig, *, only_local: bool) -> uvicorn.Server:
    """Return the server of an application, protected as the configuration says.

    Raises:
        AccessError: a file that protects it cannot be used.
    """
    protected = Access(
        app,
        token=None if web.token_file is None else read_token(web.token_file),
        only_local=only_local,
        secure=web.certificate is not None,
        cookie=f"heatline-{bound.getsockname()[1]}",
    )
    config = uvicorn.Config(
        protected,
        http="h11",
        backlog=ACCEPTED_AT_ONCE,
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        log_level="critical",  # it has a line for each request that is not valid: a hostile client could fill the disk
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=END_WITHIN_SECONDS,
        ssl_certfile=web.certificate,
        ssl_keyfile=web.key,
        ssl_ca_certs=None if web.client_ca is None else str(web.client_ca),
        ssl_ciphers=None,  # those of Python; uvicorn's own default was a weak one
        ssl_cert_reqs=ssl.CERT_NONE if web.client_ca is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(each) for each in (web.certificate, web.key, web.client_ca) if each is not None)
        raise AccessError(
            f"the page cannot be served with TLS from {files} ({error.strerror or error}); expected PEM files that "
            "this user can read, and the certificate's own key"
        ) from error
    return uvicorn.Server(config)


def check(web: WebConfig) -> None:
    """Check that a page can be served as its table says.

    Raises:
        AccessError: a file that protects it cannot be used.
        DeliveryError: it cannot listen there.
    """
    with listening_socket(web.listen) as bound:
        server_of(Starlette(), bound, web, only_local=web.is_local)


def application(
    file: Path,
    line: str,
    memory: Memory,
    metrics: Metrics,
    store: EvidenceStore | None,
    socket: Path,
    choose: Choose = not_chosen,
) -> Starlette:
    """Return the application, which is not protected yet.

    Args:
        file: the line's file.
        line: its name.
        store: None: the line stores no evidence.
        socket: the line's socket for pictures, which also takes marks.
        choose: as for `Api`.
    """

    def state() -> State:
        return describe(memory, line)

    pictures = Pictures(memory.pictures, store)
    live = Live(memory, pictures, state)
    api = Api(memory, pictures, metrics, store, state, file, socket, choose)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(live.notify)

        memory.listener = notify
        yield
        memory.listener = lambda: None

    async def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    return Starlette(
        routes=[
            Route("/", page),
            WebSocketRoute("/live", live.serve),
            *api.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={HTTPException: refused, HeatlineError: failed, Exception: failed},
        lifespan=lifespan,
    )


def listening_socket(listen: str) -> Listener:
    """Return a socket that listens on `HOST:PORT`; port 0 is any free one.

    Raises:
        DeliveryError: the address cannot be bound.
    """
    return Listener(
        listen,
        MOST_CONNECTIONS,
        "the page cannot listen on",
        "a line with web.listen serves its page itself while it runs, so open that, or set web.listen (of heatline "
        "view: --listen) to another HOST:PORT",
    )


def _url(listen: str, bound: socket.socket, web: WebConfig) -> str:
    host = listen.rpartition(":")[0]
    if host in ("*", "0.0.0.0", "[::]"):
        host = socket.gethostname()
    return f"{'http' if web.certificate is None else 'https'}://{host}:{bound.getsockname()[1]}/"


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End in order, also when uvicorn raises SIGTERM again after its own end."""
    raise SystemExit(0)


def _end_at_a_bug(failed: threading.ExceptHookArgs) -> None:
    """End this process, which the line starts again: a page that stands still is worse."""
    logger.error("the page ends", exc_info=failed.exc_value)
    os.kill(os.getpid(), signal.SIGTERM)
