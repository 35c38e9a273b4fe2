"""The page that labels the pictures of a folder, alone (`heatline label`) or below `/label/` of a line's page."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from heatline.edge.config import WebConfig
from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import HeatlineError, InputError
from heatline.edge.heatmap_picture import png
from heatline.edge.images import read_rgb
from heatline.edge.labels.doubts import RUNS, newest_run, read_scores
from heatline.edge.labels.folder import ChangedMeanwhileError, Label, LabelFolder, Labelled
from heatline.edge.labels.training import Training
from heatline.edge.monitor.api import Handler, failed, json, read_body, refused
from heatline.edge.monitor.held_picture import jpeg_of
from heatline.edge.monitor.page import STATIC, listening_socket, require_protected, server_of, url_of
from heatline.edge.near_duplicates import near_duplicate_chains, thumbnail
from heatline.edge.util.process import NamedThread, yield_processor
from heatline.edge.wire.events import Areas
from heatline.edge.wire.requests import UNREADABLE, ShortText, require_printable

PREFIX = "/label"
THUMBNAIL_PX = 224
MOST_THUMBNAILS = 6000
"""Kept in memory, of some 10 kB each."""
MOST_COMPARED = 10_000
"""Pictures that are compared with each other: it takes 40 MB of memory, and seconds."""
OPENED = 3
DECODED_AT_ONCE = 2
LARGEST_LABEL = 256 << 10
"""Bytes."""
REPORT_MAY = "default-src 'self' data: 'unsafe-inline'"
"""The report is one file with its own style and script."""
CACHED = {"cache-control": "private, max-age=600"}


class LabelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says of a picture."""

    picture: str
    label: Label
    seen: tuple[Label, int]
    """Label and places that the page shows."""
    areas: Areas | None = None
    """Places of its defects; null: as they are."""

    def __post_init__(self) -> None:
        if self.areas is not None and self.label != "defective":
            raise ValueError(f"Expected areas of a defective picture, got {self.label} - at `$.areas`")


class TrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a training may take, and who asks for it."""

    minutes: Annotated[int, Meta(ge=1, le=1440)]
    by: ShortText

    def __post_init__(self) -> None:
        require_printable(by=self.by)


_decode, _decode_train = msgspec.json.Decoder(LabelRequest).decode, msgspec.json.Decoder(TrainRequest).decode
Use = Callable[[Path, str], object]
"""Has a line use a bundle, for the person named; errors as of `heatline.edge.monitor.activation.rewrite`."""


class Labelling:
    """What the page asks for.

    Args:
        run: folder of the training whose scores are shown; None: the newest of the folder.
        use: None: the page is of no line.
    """

    def __init__(self, folder: LabelFolder, run: Path | None = None, use: Use | None = None) -> None:
        self._folder, self._run, self._use = folder, run, use
        self._training = Training(folder, folder.folder.resolve().parent / RUNS)
        self._begin = self._version = time.time_ns() // 1_000_000  # of a server that starts again, it is higher
        self._known: dict[str, Labelled] = {}
        self._changed_in: dict[str, int] = {}
        self._noting = threading.Lock()
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)
        self._image = lru_cache(OPENED)(self._read_image)
        self._thumbnail = lru_cache(MOST_THUMBNAILS)(self._make_thumbnail)
        self._small: dict[str, NDArray[np.uint8] | None] = {}
        """Of each picture what it is compared by; None: it cannot be read."""
        self._alike: dict[str, Any] = {}
        self._compared: Sequence[str] = ()
        """Names of the pictures that were compared, or are."""
        self._comparison: threading.Thread | None = None

    def routes(self) -> list[BaseRoute]:
        """Return all routes."""
        handlers: dict[str, Handler] = {
            "pictures": self.pictures,
            "picture": self.picture,
            **dict.fromkeys(("frame.jpg", "frame.png", "thumbnail.jpg"), self.image),
            "scores": self.scores,
            "alike": self.alike,
            "train": self.train_state,
            "report/{path:path}": self.report,
        }
        acting = {"label": self._label, "train": self._train, "stop": self._stop, "use": self._use_bundle}
        return [
            Route(PREFIX, lambda _: RedirectResponse(f"{PREFIX}/")),
            Route(f"{PREFIX}/", self.page),
            *(Route(f"{PREFIX}/api/{path}", handler) for path, handler in handlers.items()),
            *(Route(f"{PREFIX}/api/{path}", self._write(do), methods=["POST"]) for path, do in acting.items()),
        ]

    async def page(self, _: Request) -> Response:
        return FileResponse(STATIC / "label.html", headers={"cache-control": "no-cache"})

    def pictures(self, request: Request) -> Response:
        """Answer with name, label and places of the pictures that changed since a version; label null: it is gone."""
        asked = request.query_params.get("since", "0")
        since = int(asked) if asked.isdecimal() else 0
        with self._noting:
            now = self._folder.pictures()
            if now is not self._known:
                changed = [name for name in now.keys() | self._known.keys() if now.get(name) != self._known.get(name)]
                self._version += 1
                self._changed_in |= dict.fromkeys(changed, self._version)
                self._known = now
            is_all = since < self._begin
            names = [*now] if is_all else [name for name, version in self._changed_in.items() if version > since]
            rows = [[name, *(now[name][1:3] if name in now else (None, 0))] for name in names]
            folder = str(self._folder.folder.resolve())
            return json({"version": self._version, "all": is_all, "rows": rows, "folder": folder})

    def picture(self, request: Request) -> Response:
        name, found = self._find(request)
        areas, shapes = self._folder.places_of(found)
        answer = {"label": found.label, "places": found.places, "areas": areas, "shapes": shapes}
        return json(answer | {"hw": self._image(name).shape[:2]})

    def image(self, request: Request) -> Response:
        name, path = self._find(request)[0], request.url.path
        if path.endswith(".png"):
            return Response(png(self._image(name)), 200, CACHED, "image/png")
        data = self._thumbnail(name) if path.endswith("thumbnail.jpg") else jpeg_of(self._image(name)).data
        return Response(data, 200, CACHED, "image/jpeg")

    def scores(self, _: Request) -> Response:
        """Answer by how much the score of each picture was above the limit in the cross-validation."""
        run = self._run or newest_run(self._folder.folder)
        return json({"run": run and str(run), "above": {} if run is None else read_scores(run)})

    def alike(self, _: Request) -> Response:
        """Answer with near-duplicates; compare what is new in the background."""
        with self._noting:
            names = [*self._folder.pictures()][:MOST_COMPARED]
            is_idle = self._comparison is None or not self._comparison.is_alive()
            if is_idle and (not self._alike or set(names) != set(self._compared)):
                self._compared = names
                self._alike = {"done": 0, "of": len(names), "groups": []}
                self._comparison = NamedThread("near-duplicates", self._compare, names)
                self._comparison.start()
            return json(self._alike)

    def train_state(self, _: Request) -> Response:
        state = self._training.state()
        return json({**msgspec.to_builtins(state), "report": self._training.has_report, "line": self._use is not None})

    def report(self, request: Request) -> Response:
        """Answer with a file of the last training's report."""
        folder = self._training.report.resolve()
        file = (folder / request.path_params["path"]).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise HTTPException(404, "the last training of this page has no such report")
        return FileResponse(file, headers={"content-security-policy": REPORT_MAY, "cache-control": "no-cache"})

    def _write(self, do: Callable[[bytes], Response]) -> Handler:
        """Return what takes a request that changes something, and answers once it is done."""

        async def answer(request: Request) -> Response:
            body = await read_body(request, LARGEST_LABEL)
            if body is None:
                raise HTTPException(413, f"the request has more than {LARGEST_LABEL} bytes; draw fewer places")
            return await run_in_threadpool(do, body)

        return answer

    def _train(self, body: bytes) -> Response:
        try:
            wanted = _decode_train(body)
        except UNREADABLE as problem:
            raise HTTPException(400, f"this starts no training: {problem}; expected minutes and by") from problem
        try:
            self._training.start(wanted.minutes, wanted.by)
        except HeatlineError as problem:
            raise HTTPException(409, str(problem)) from problem
        return json({})

    def _stop(self, _: bytes) -> Response:
        self._training.stop()
        return json({})

    def _use_bundle(self, _: bytes) -> Response:
        state = self._training.state()
        if self._use is None or state.bundle is None or state.by is None:
            raise HTTPException(409, "there is no new bundle, or this page is of no line")
        try:
            self._use(state.bundle, state.by)
        except HeatlineError as problem:
            raise HTTPException(409, str(problem)) from problem
        return json({})

    def _label(self, body: bytes) -> Response:
        try:
            wanted = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            expected = "picture, label, seen, and areas if they change"
            raise HTTPException(400, f"this is not a label: {problem}; expected {expected}") from problem
        try:
            now = self._folder.relabel(wanted.picture, wanted.label, wanted.seen, wanted.areas)
        except ChangedMeanwhileError as problem:
            now_is = problem.now and problem.now[1:3]
            return json({"error": str(problem), "now": now_is}, 409)
        return json({"now": now[1:3]})

    def _find(self, request: Request) -> tuple[str, Labelled]:
        name = request.query_params.get("picture", "")
        found = self._folder.pictures().get(name)
        if found is None:
            raise HTTPException(404, f"there is no picture {name[:200]!a}; it was moved or deleted")
        return name, found

    def _read_image(self, name: str) -> NDArray[np.uint8]:
        path = self._folder.pictures()[name].path
        with self._decoding:
            try:
                return read_rgb(path)
            except InputError:
                if path.exists():
                    raise
                return read_rgb(self._folder.pictures()[name].path)  # it was moved at this moment

    def _make_thumbnail(self, name: str) -> bytes:
        image = self._read_image(name)
        self._small[name] = thumbnail(image)
        scale = min(1.0, THUMBNAIL_PX / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return jpeg_of(np.asarray(small, np.uint8)).data

    def _compare(self, names: Sequence[str]) -> None:
        """Compare pictures; what they are compared by is made with their thumbnails."""
        yield_processor()
        for number, name in enumerate(names):
            if name not in self._small:
                try:
                    self._thumbnail(name)
                except (InputError, KeyError):  # it was moved, or is no picture
                    self._small[name] = None
            self._alike = self._alike | {"done": number}
        readable = [name for name in names if self._small.get(name) is not None]
        chains = near_duplicate_chains(np.array([self._small[name] for name in readable], np.uint8))
        groups = [np.flatnonzero(chains == first) for first in np.flatnonzero(np.bincount(chains, minlength=1) > 1)]
        found = [[readable[number] for number in group] for group in groups]
        self._alike = {"done": len(names), "of": len(names), "groups": found}


def label_routes(folder: LabelFolder, run: Path | None = None, use: Use | None = None) -> list[BaseRoute]:
    """Return the routes of the page, below `PREFIX`, for an application that serves `/static` and handles errors."""
    return Labelling(folder, run, use).routes()


def serve_labels(
    folder: LabelFolder, listen: str, token_file: Path | None, run: Path | None, announce: Callable[[str], None]
) -> None:
    """Serve the page of a folder until SIGTERM or Ctrl-C; arguments as of `serve` and `Labelling`."""
    web = WebConfig(listen=listen, token_file=token_file)
    require_protected(listen, web, "name a file with a token by --token-file")
    app = Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse(f"{PREFIX}/")),
            *label_routes(folder, run),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={HTTPException: refused, HeatlineError: failed, Exception: failed},
    )
    with listening_socket(listen) as bound:
        server = server_of(app, bound, web, only_local=is_local(f"tcp://{listen}"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after its own end
        cv2.setNumThreads(1)
        yield_processor()  # it may run beside a line
        announce(url_of(listen, bound, web))
        server.run(sockets=[bound])
