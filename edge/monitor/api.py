"""Answers requests of the page and of other programs: state, verdicts, scores, what a verdict rests on, and marks."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import describe_missed, describe_passing
from heatline.edge.bundle.store import read_manifest
from heatline.edge.config import load_config
from heatline.edge.errors import HeatlineError
from heatline.edge.monitor.held_picture import Cell, HeldPicture, Tile, jpeg_of, png_of
from heatline.edge.monitor.marks import Marks
from heatline.edge.monitor.memory import HISTORY_SECONDS, NS, ROWS, Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import Found, Pictures
from heatline.edge.monitor.queue import MOST_QUEUED, ReviewQueue
from heatline.edge.monitor.references import References
from heatline.edge.monitor.responses import error, json
from heatline.edge.monitor.reviews import ReviewState
from heatline.edge.monitor.state import State
from heatline.edge.wire.events import HeatmapPng, StatusEvent, Verdict, VerdictEvent

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
Make = Callable[[HeldPicture], NDArray[np.uint8] | None]
FOREVER = "private, max-age=86400, immutable"
"""The pixels under an id never change."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LARGEST_COORDINATE = 1 << 20


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Rate and latency of each camera, one value per second; null: no verdict came in it."""

    t: list[int]
    """UTC, s since 1970."""
    rate: dict[str, list[int | None]]
    latency_ms: dict[str, list[float | None]]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The last scores of a camera, oldest first."""

    scores: list[float]
    verdicts: list[Verdict]
    score_threshold: float | None
    """Of the newest; null: no frame has a score."""
    missed: str | None
    """Which kinds of known defects a cross-validation of this threshold missed; null: none, or not known."""
    from_ns: int | None
    to_ns: int | None


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What the verdict of a frame rests on."""

    event: VerdictEvent
    heatmap: HeatmapPng | None
    tiles: list[Tile]
    """Highest first."""
    tile_px: int | None
    cells: list[Cell]
    """The highest ones, highest first."""
    source: Literal["memory", "evidence"]
    review: ReviewState | None
    """Null: nobody has reviewed it."""
    has_reference: bool
    """Whether the reference that the frame was compared with can be shown."""


class _Refused(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Api:
    """The API of one line.

    Args:
        workers: threads that read the disk and encode pictures. A disk that does not answer may hold all of them.
        file: the line's file, which names its bundle.
    """

    def __init__(
        self,
        memory: Memory,
        pictures: Pictures,
        metrics: Metrics,
        queue: ReviewQueue,
        marks: Marks,
        state: Callable[[], State],
        workers: Executor,
        file: Path,
    ) -> None:
        self._memory, self._pictures, self._metrics = memory, pictures, metrics
        self._queue, self._marks = queue, marks
        self._state, self._workers, self._file = state, workers, file
        self._calibrations: dict[str, Calibration] = {}
        self._references = References(file)

    def routes(self) -> list[Route]:
        """Return all routes."""
        handlers: dict[str, Handler] = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/api/state": self.state,
            "/api/verdicts": self.verdicts,
            "/api/history": self.history,
            "/api/scores": self.scores,
            "/api/review": self.review,
            "/api/pictures/{id}": self.why,
            "/api/pictures/{id}/frame.jpg": self.frame_jpg,
            "/api/pictures/{id}/frame.png": self.frame_png,
            "/api/pictures/{id}/heatmap.png": self.heatmap_png,
            "/api/pictures/{id}/crop.png": self.crop_png,
            "/api/pictures/{id}/reference.jpg": self.reference_jpg,
            "/api/pictures/{id}/reference.png": self.reference_png,
            "/api/pictures/{id}/difference.png": self.difference_png,
        }
        reading = [Route(path, _answering(handler)) for path, handler in handlers.items()]
        return [*reading, Route("/api/marks", _answering(self._marks.answer), methods=["POST"])]

    async def healthz(self, _: Request) -> Response:
        return json({"status": "the program of the page works; /readyz says whether the line does"})

    async def readyz(self, _: Request) -> Response:
        handshake = self._state().handshake
        return json(handshake, 200 if handshake.state in ("READY", "BUSY") else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(await asyncio.to_thread(self._metrics.exposition), media_type=METRICS_TYPE)

    async def state(self, _: Request) -> Response:
        return json(self._state())

    async def verdicts(self, request: Request) -> Response:
        rows, _ = self._memory.rows(_number(request, "limit", 50, 1, ROWS))
        return json({"rows": await self._work(self._pictures.located, rows)})

    async def history(self, request: Request) -> Response:
        return json(history(self._memory, _number(request, "seconds", 600, 1, HISTORY_SECONDS)))

    async def scores(self, request: Request) -> Response:
        camera = request.query_params.get("camera", "")
        if camera not in self._state().cameras:
            raise _Refused(
                404, f"there is no camera {camera[:64]!r}; expected one of {', '.join(self._state().cameras)}"
            )
        rows = self._memory.scores(camera, _number(request, "n", 1000, 1, ROWS))
        threshold = rows[-1].score_threshold if rows else None
        scored = [(row.frame_score, row.verdict) for row in rows if row.frame_score is not None]
        return json(
            Scores(
                scores=[score for score, _ in scored],
                verdicts=[verdict for _, verdict in scored],
                score_threshold=threshold,
                missed=await self._work(self._missed, self._memory.status, threshold),
                from_ns=rows[0].at_ns if rows else None,
                to_ns=rows[-1].at_ns if rows else None,
            )
        )

    async def review(self, request: Request) -> Response:
        return json(await self._work(self._queue.unreviewed, _number(request, "limit", 50, 1, MOST_QUEUED)))

    async def why(self, request: Request) -> Response:
        found = await self._find(request)
        event, evidence = found.picture.event, found.picture.evidence
        stored_review = await self._work(self._pictures.stored_review, event)
        return json(
            Why(
                event=event,
                heatmap=found.picture.heatmap(),
                tiles=found.picture.highest_tiles(),
                tile_px=None if evidence is None else evidence.tiles.tile_px,
                cells=found.picture.highest_cells(),
                source=found.source,
                review=self._memory.reviews.of(found.picture.id, stored_review),
                has_reference=await self._work(self._references.of, event) is not None,
            )
        )

    async def frame_jpg(self, request: Request) -> Response:
        jpeg = await self._work((await self._find(request)).picture.jpeg)
        return _picture(jpeg.data, "image/jpeg")

    async def frame_png(self, request: Request) -> Response:
        return _picture(await self._work((await self._find(request)).picture.png))

    async def heatmap_png(self, request: Request) -> Response:
        found = await self._find(request)
        data = await self._work(found.picture.heatmap_png)
        if data is None:
            raise _Refused(404, f"picture {found.picture.id} has no heatmap: the frame was not judged")
        return _picture(data)

    async def crop_png(self, request: Request) -> Response:
        return await self._crop(request, lambda picture: picture.image)

    async def reference_jpg(self, request: Request) -> Response:
        moved = await self._made_of((await self._find(request)).picture, self._references.moved)
        return _picture((await self._work(jpeg_of, moved)).data, "image/jpeg")

    async def reference_png(self, request: Request) -> Response:
        return await self._crop(request, self._references.moved)

    async def difference_png(self, request: Request) -> Response:
        return await self._crop(request, self._references.difference)

    async def _crop(self, request: Request, make: Make) -> Response:
        """Answer with what `make` makes of the requested picture, in the requested box."""
        x0, y0, x1, y1 = (_number(request, key, None, -LARGEST_COORDINATE, LARGEST_COORDINATE) for key in _BOX)
        image = await self._made_of((await self._find(request)).picture, make)
        try:
            return _picture(await self._work(png_of, image, (x0, y0, x1, y1)))
        except ValueError as problem:
            raise _Refused(400, str(problem)) from problem

    async def _made_of(self, picture: HeldPicture, make: Make) -> NDArray[np.uint8]:
        image = await self._work(make, picture)
        if image is None:
            raise _Refused(
                404,
                f"picture {picture.id} has no reference that can be shown: it was not compared with one, or the line's "
                "file names another bundle now",
            )
        return image

    async def _find(self, request: Request) -> Found:
        wanted = request.path_params["id"]
        found = await self._work(self._pictures.find, wanted)
        if found is None:
            raise _Refused(
                404,
                f"there is no picture {wanted[:200]!r}: it was not stored, or is deleted already; [evidence] in the "
                "line's file says which are stored, and for how long",
            )
        return found

    def _missed(self, status: StatusEvent | None, threshold: float | None) -> str | None:
        """Describe what the line's bundle is known to miss; None if the line uses another threshold than the bundle's.

        Args:
            threshold: score threshold of the line's newest verdict, logits.
        """
        calibration = None if status is None else self._calibration_of(status)
        if calibration is None or calibration.score_threshold != threshold:
            return None
        if not any(kind.missed for kind in calibration.missed):
            return None
        passing = describe_passing(calibration.missed)
        first = f"At the line's limit, whole kinds of defects pass: {passing}. " if passing else ""
        return f"{first}Missed in the cross-validation of the training, {describe_missed(calibration.missed)}."

    def _calibration_of(self, status: StatusEvent) -> Calibration | None:
        """Return the calibration of the line's bundle, which is read once; None: the line's file names another."""
        running = status.bundle.digest
        if running not in self._calibrations:
            try:
                manifest, digest = read_manifest(load_config(self._file).of_product(status.product).bundle)
            except HeatlineError:  # the line itself reports it
                return None
            if digest != running:
                return None
            self._calibrations = {running: manifest.calibration}
        return self._calibrations.get(running)

    async def _work(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


_BOX = "x0", "y0", "x1", "y1"


def history(memory: Memory, seconds: int) -> History:
    """Return the last seconds of each camera, up to the last whole one."""
    end = memory.wall_ns() // NS
    times = list(range(end - seconds, end))
    rate: dict[str, list[int | None]] = {}
    latency: dict[str, list[float | None]] = {}
    with memory.lock:
        for name, camera in memory.cameras.items():
            by_second = {each.at_s: each for each in camera.seconds}
            found = [by_second.get(at_s) for at_s in times]
            rate[name] = [None if each is None else each.frames for each in found]
            latency[name] = [None if each is None else round(each.latency_ms, 3) for each in found]
    return History(t=times, rate=rate, latency_ms=latency)


def _answering(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except _Refused as problem:
            return error(problem.status, str(problem))
        except HeatlineError as problem:  # a disk that cannot be read
            return error(500, str(problem))

    return answer


def _number(request: Request, key: str, default: int | None, least: int, most: int) -> int:
    text = request.query_params.get(key)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise _Refused(400, f"{key} is {(text or '')[:40]!r}; expected a whole number from {least} to {most}")
    return number


def _picture(data: bytes, kind: str = "image/png") -> Response:
    return Response(data, headers={"cache-control": FOREVER}, media_type=kind)
