"""The page that labels the pictures of a folder, alone (`heatline label`) or below `/label/` of a line's page."""

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
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from heatline.edge.config import SecurityConfig, WebConfig
from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import png
from heatline.edge.images import read_rgb
from heatline.edge.labels.folder import ChangedMeanwhileError, Label, LabelFolder, Labelled
from heatline.edge.labels.training import RUNS, Note, Training, newest_run, read_scores
from heatline.edge.monitor.api import HANDLERS, Handler, PersonRequest, json, writes
from heatline.edge.monitor.held_picture import jpeg_of
from heatline.edge.monitor.server import CONTENT_SECURITY_POLICY, STATIC, run_server
from heatline.edge.near_duplicates import near_duplicate_chains, thumbnail
from heatline.edge.util.process import NamedThread, yield_processor
from heatline.edge.wire.events import Areas
from heatline.edge.wire.requests import ShortText, require_printable

PREFIX = "/label"
THUMBNAIL_PX = 224
MOST_THUMBNAILS = 6000
"""Kept in memory, of some 10 kB each."""
MOST_COMPARED = 10_000
"""Pictures that are compared with each other: it takes 40 MB of memory, and seconds."""
OPENED = 3
DECODED_AT_ONCE = 2
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
    by: ShortText | None = None
    """Who says it; null: not known."""

    def __post_init__(self) -> None:
        require_printable(by=self.by)
        if self.areas is not None and self.label != "defective":
            raise ValueError(f"Expected areas of a defective picture, got {self.label} - at `$.areas`")


class TrainRequest(PersonRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a training may take, and who starts it."""

    minutes: Annotated[int, Meta(ge=1, le=1440)]


Use = Callable[[Path, str], object]
"""Has a line use a bundle, for the person named; errors as of `heatline.edge.monitor.activation.rewrite`."""


class Labelling:
    """What the page asks for.

    Args:
        run: folder of the training whose scores are shown; None: the newest of the folder.
        use: None: the page is of no line.
    """

    def __init__(
        self, folder: LabelFolder, run: Path | None = None, use: Use | None = None, note: Note = lambda *_: None
    ) -> None:
        self._folder, self._run, self._use, self._note = folder, run, use, note
        self._training = Training(folder, folder.folder.resolve().parent / RUNS, note)
        self._begin = self._version = time.time_ns() // 1_000_000  # of a server that starts again, it is higher
        self._known: dict[str, Labelled] = {}
        self._changed_in: dict[str, int] = {}
        self._noting = threading.Lock()
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)
        self._image = lru_cache(OPENED)(self._read_image)
        self._thumbnail = lru_cache(MOST_THUMBNAILS)(self._make_thumbnail)
        self._small: dict[str, NDArray[np.uint8] | None] = {}
        """Of each picture what it is compared by; None: it cannot be read."""
        self._alike: dict[str, Any] = {"done": 0, "of": 0, "groups": []}
        self._compared: Sequence[str] = ()
        """Names of the pictures that were compared, or are."""

    def routes(self) -> list[BaseRoute]:
        """Return all routes, below `PREFIX`, for an application that serves `/static` and has `HANDLERS`."""
        handlers: dict[str, Handler] = {
            "pictures": self.pictures,
            "picture": self.picture,
            **dict.fromkeys(("frame.jpg", "frame.png", "thumbnail.jpg"), self.image),
            "scores": self.scores,
            "alike": self.alike,
            "train": self.train_state,
            "report/{path:path}": self.report,
        }
        api = f"{PREFIX}/api/"
        return [
            Route(PREFIX, lambda _: RedirectResponse(f"{PREFIX}/")),
            Route(f"{PREFIX}/", lambda _: FileResponse(STATIC / "label.html", headers={"cache-control": "no-cache"})),
            *(Route(f"{api}{path}", handler) for path, handler in handlers.items()),
            writes(f"{api}label", LabelRequest, self._label),
            writes(f"{api}train", TrainRequest, lambda wanted: self._training.start(wanted.minutes, wanted.by)),
            writes(f"{api}stop", PersonRequest, lambda wanted: self._training.stop(wanted.by)),
            writes(f"{api}use", PersonRequest, self._use_bundle),
        ]

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
            is_idle = self._alike["done"] == self._alike["of"]
            if is_idle and set(names) != set(self._compared):
                self._compared = names
                self._alike = {"done": 0, "of": len(names), "groups": []}
                NamedThread("near-duplicates", self._compare, names).start()
            return json(self._alike)

    def train_state(self, _: Request) -> Response:
        has_report = (self._training.report / "report.html").exists()
        state = msgspec.to_builtins(self._training.state())
        return json({**state, "report": has_report, "line": self._use is not None})

    def report(self, request: Request) -> Response:
        """Answer with a file of the last training's report."""
        folder = self._training.report.resolve()
        file = (folder / request.path_params["path"]).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise HTTPException(404, "the last training of this page has no such report")
        return FileResponse(file, headers={CONTENT_SECURITY_POLICY: REPORT_MAY, "cache-control": "no-cache"})

    def _use_bundle(self, wanted: PersonRequest) -> None:
        bundle = self._training.state().bundle
        if self._use is None or bundle is None:
            raise HTTPException(409, "there is no new bundle, or this page is not the page of a line")
        self._use(Path(bundle), wanted.by)

    def _label(self, wanted: LabelRequest) -> dict[str, object]:
        try:
            now = self._folder.relabel(wanted.picture, wanted.label, wanted.seen, wanted.areas)
        except ChangedMeanwhileError as problem:
            raise HTTPException(409, str(problem)) from problem
        self._note("labelled", wanted.by, f"{wanted.picture} is {wanted.label}")
        return {"now": now[1:3]}

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


def serve_labels(
    folder: LabelFolder,
    listen: str,
    token_file: Path | None,
    key: Path | None,
    run: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Serve the page of a folder until SIGTERM or Ctrl-C; arguments as of `serve` and `Labelling`, and the private key
    of this machine, beside the folder `allowed` of the keys of people who may label.
    """
    app = Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse(f"{PREFIX}/")),
            *Labelling(folder, run).routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers=HANDLERS,
    )
    run_server(
        app,
        WebConfig(listen=listen, token_file=token_file),
        listen,
        announce,
        "name a file with a token by --token-file",
        SecurityConfig(key=key),
    )
