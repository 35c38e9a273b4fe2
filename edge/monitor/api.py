"""Answers requests of the page and of other programs, as docs/view.md describes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from heatline.edge.bundle.manifest import describe_missed, describe_passing
from heatline.edge.config import load_config
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.errors import DeliveryError, HeatlineError, InputError, JournalError
from heatline.edge.heatmap_picture import png
from heatline.edge.labels.collected import collect_folder, count_collected, name_of
from heatline.edge.labels.folder import Label, LabelFolder
from heatline.edge.monitor.activation import activate
from heatline.edge.monitor.held_picture import HeldPicture, References, jpeg_of, open_stored, picture_id
from heatline.edge.monitor.login import PERSON
from heatline.edge.monitor.marks import Review, mark_of
from heatline.edge.monitor.memory import HISTORY_SECONDS, ROWS, Memory, describe, readiness, row_of, tolerance_of
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import Picture, add_mark
from heatline.edge.monitor.recorder import encode_frame
from heatline.edge.monitor.shadow import compare
from heatline.edge.monitor.shift_page import html_of
from heatline.edge.monitor.shift_report import Scope, Tally, make_report
from heatline.edge.monitor.store import EvidenceEntry, EvidenceStore
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import COLLECTING, Areas, Digest, MarkKind, StatusEvent
from heatline.edge.wire.requests import UNREADABLE, ShortText, require_printable

_log = RateLimitedLog(logging.getLogger(__name__))
Handler = Callable[[Request], Response | Awaitable[Response]]
Choose = Callable[[Picture], str | None]
T = TypeVar("T")
FOREVER = "private, max-age=86400, immutable"
"""The pixels under an id never change."""
SHIFT_REPORT_MAY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'"
)
OPENED = 4
"""Stored pictures that stay open: a page asks for several views of one."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LARGEST_COORDINATE = 1 << 20
BOX = "x0", "y0", "x1", "y1"
VIEWS = (
    *("frame.jpg", "frame.png", "heatmap.png", "crop.png"),
    *("reference.jpg", "reference.png", "difference.png"),
)
MOST_QUEUED = 1000
"""Frames to review that one answer has."""
LARGEST_REQUEST = 256 << 10
"""Bytes."""


class MarkRequest(Areas, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says of a verdict."""

    picture: str
    kind: MarkKind
    by: str
    at_xy: list[tuple[int, int]] = msgspec.field(default_factory=list)


class PersonRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who wants something."""

    by: ShortText

    def __post_init__(self) -> None:
        require_printable(by=self.by)


class ExchangeRequest(PersonRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person wants to be the line's bundle. The page shows which one that would be."""

    bundle: Digest


class Api:
    """The API of one line.

    Args:
        store: None: the line stores no evidence.
        beside: another store, in which nobody marks pictures.
        file: the line's file, which names its bundle.
        socket: the line's socket for pictures, which also takes marks.
        choose: has a picture stored that the line did not choose; returns why it is not, as a sentence, or None.
    """

    def __init__(
        self,
        line: str,
        memory: Memory,
        metrics: Metrics,
        store: EvidenceStore | None,
        beside: EvidenceStore | None,
        file: Path,
        socket: Path,
        journal: Path,
        choose: Choose,
    ) -> None:
        self._memory, self._metrics, self._store = memory, metrics, store
        self._opened = lru_cache(OPENED)(lambda wanted: open_stored(wanted, store, beside))
        self._line, self._socket, self._journal, self._choose = line, socket, journal, choose
        self._references, self._file = References(file), file

    @cached_property
    def _collected(self) -> Path:
        """The folder into which the line collects. It changes only at a restart, whatever the file says meanwhile."""
        return collect_folder(self._file, load_config(self._file))

    def routes(self) -> list[Route]:
        """Return all routes."""
        of_picture = "/api/pictures/{id}"
        handlers: dict[str, Handler] = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/api/state": self.state,
            "/api/verdicts": self.verdicts,
            "/api/history": self.history,
            "/api/scores": self.scores,
            "/api/review": self.review,
            "/api/collected": lambda _: json(count_collected(self._collected)),
            "/api/shadow": lambda _: json(compare(self._file, self._memory.review_of)),
            "/api/report": self.report,
            "/report": self.report_page,
            of_picture: self.why,
            **{f"{of_picture}/{name}": self.view for name in VIEWS},
        }
        return [
            *(Route(path, handler) for path, handler in handlers.items()),
            writes("/api/marks", MarkRequest, self._mark),
            writes("/api/activate", ExchangeRequest, partial(self._exchange, back=False)),
            writes("/api/back", ExchangeRequest, partial(self._exchange, back=True)),
        ]

    async def healthz(self, _: Request) -> Response:
        return json({"status": "the program of the page works; /readyz says whether the line does"})

    async def readyz(self, _: Request) -> Response:
        handshake = readiness(self._memory)
        return json(handshake, 200 if handshake.state in ("READY", "BUSY") else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(await asyncio.to_thread(self._metrics.exposition), media_type=METRICS_TYPE)

    async def state(self, _: Request) -> Response:
        return json(describe(self._memory, self._line))

    async def verdicts(self, request: Request) -> Response:
        return json({"rows": self._memory.rows(_number(request, "limit", 50, 1, ROWS))})

    async def history(self, request: Request) -> Response:
        return json(self._memory.history(_number(request, "seconds", 600, 1, HISTORY_SECONDS)))

    def scores(self, request: Request) -> Response:
        camera = request.query_params.get("camera", "")
        cameras = describe(self._memory, self._line)["cameras"]
        if camera not in cameras:
            raise HTTPException(404, f"there is no camera {camera[:64]!r}; expected one of {', '.join(cameras)}")
        rows = self._memory.scores(camera, _number(request, "n", 1000, 1, ROWS))
        threshold, settings = rows[-1]["score_threshold"] if rows else None, None
        with contextlib.suppress(HeatlineError):  # the line reports what is wrong with its file
            settings = next((one for one in load_config(self._file).cameras if one.name == camera), None)
        answer = {
            "scores": [row["frame_score"] for row in rows],
            "cleared": any(row["cleared"] for row in rows),
            "tolerated_above_mm": [tolerance_of(row, settings) for row in rows],
            "ignore_below_mm": settings and settings.ignore_below_mm,
            "score_threshold": threshold,
            "missed": self._missed(self._memory.status, threshold),
            "from_ns": rows[0]["at_ns"] if rows else None,
            "to_ns": rows[-1]["at_ns"] if rows else None,
        }
        return json(answer)

    def review(self, request: Request) -> Response:
        limit, store = _number(request, "limit", 50, 1, MOST_QUEUED), self._store
        if store is None:  # it has the DEFECTs in memory
            events = [each.event for each in self._memory.pictures.all().values() if each.event.verdict == "DEFECT"]
            rows = [row_of(event) for event in events if self._memory.review_of(picture_id(event)) is None]
            rows.sort(key=lambda row: row["at_ns"], reverse=True)
            return json({"rows": rows[:limit], "count": len(rows)})
        entries, count = store.unreviewed(limit, self._memory.marked())
        shown = [entry.event for entry in entries if store.frame_path(entry.picture, entry.day)]
        return json({"rows": [row_of(event) for event in shown], "count": count})

    def why(self, request: Request) -> Response:
        found = self._find(request.path_params["id"])
        answer = {
            "event": found.event,
            "heatmap": found.evidence and found.evidence.scale,
            "tiles": found.highest_tiles(),
            "tile_px": None if found.evidence is None else found.evidence.tiles.tile_px,
            "cells": found.highest_cells(),
            "review": self._review_of(found),
            "others": [row_of(each.event) for each in self._memory.pictures.of(found.event.camera)],
            "has_reference": self._references.of(found.event) is not None,
        }
        return json(answer)

    def view(self, request: Request) -> Response:
        """Answer with what a picture shows: as frames are shown (JPEG), or without loss, all or a requested box."""
        found, name = self._find(request.path_params["id"]), request.url.path.rpartition("/")[2]
        if name == "frame.jpg":
            return _picture(found.shown[0].data, "image/jpeg")
        if name == "heatmap.png":
            if (data := found.shown[1]) is None:
                raise HTTPException(404, f"picture {found.id} has no heatmap: the frame was not judged")
            return _picture(data)
        makes = {"reference": self._references.moved, "difference": self._references.difference}
        make = makes.get(name[:-4])
        image = found.image if make is None else make(found)
        if image is None:
            raise HTTPException(
                404,
                f"picture {found.id} has no reference that can be shown: it was not compared with one, or the line's "
                "file names another bundle now",
            )
        if name == "reference.jpg":
            return _picture(jpeg_of(image).data, "image/jpeg")
        if name != "frame.png":
            box = [_number(request, key, None, -LARGEST_COORDINATE, LARGEST_COORDINATE) for key in BOX]
            (height, width), (x0, y0, x1, y1) = image.shape[:2], (max(0, each) for each in box)
            image = image[y0:y1, x0:x1]
            if not image.size:
                raise HTTPException(
                    400, f"the box {box} has no pixel of the frame; expected x0 < x1 <= {width} and y0 < y1 <= {height}"
                )
        return _picture(png(image))

    def report(self, request: Request) -> Response:
        try:
            return json(self._report(request)[0])
        except InputError as problem:
            raise HTTPException(400, str(problem)) from problem

    def report_page(self, request: Request) -> Response:
        try:
            page = html_of(self._file, *self._report(request), served=True)
        except HeatlineError as problem:
            page = html_of(self._file, {}, Tally(), served=True, problem=str(problem))
        return HTMLResponse(page, headers={"cache-control": "no-store", "content-security-policy": SHIFT_REPORT_MAY})

    def _report(self, request: Request) -> tuple[dict[str, Any], Tally]:
        asked = request.query_params
        scope = Scope.parse(**{key: asked[key] for key in Scope._fields if asked.get(key)})
        try:
            with JournalReader.open_file(self._journal) as reader:
                return make_report(reader, scope)
        except HeatlineError as problem:  # who looks need not know this PC's folders
            sentence = str(problem).replace(f"journal {self._journal}", "journal")
            problem.args = (sentence.replace(str(self._journal), "the journal"),)
            raise

    def _exchange(self, wanted: ExchangeRequest, *, back: bool) -> dict[str, object]:
        found = compare(self._file, lambda _: None)
        offered = found["former"] if back else found["shadow"]["bundle"]
        if offered is None or offered.digest != wanted.bundle:
            raise HTTPException(409, "another bundle was activated or set meanwhile; look at the page again")
        event = activate(str(self._file.absolute()), wanted.by, back=back)
        return {"bundle": event.bundle, "seq": event.seq}

    def _mark(self, wanted: MarkRequest) -> dict[str, object]:
        found = self._find(wanted.picture)
        try:
            mark = mark_of(found.event, wanted.kind, wanted.by, wanted.at_xy, wanted.boxes_xywh, wanted.strokes)
        except InputError as problem:
            raise HTTPException(400, str(problem)) from problem
        if mark.kind == "withdrawn" and mark.by not in getattr(self._review_of(found), "by", ()):
            raise HTTPException(409, f"{mark.by} has no mark of this picture to take back")
        detail, kept = None, ""
        if found.event.reason == COLLECTING:
            kept = self._keep(found, mark.kind)  # before it is journalled: a crash between leaves a picture, not a word
        elif self._entry(found) is None:
            not_stored = self._choose(Picture(found.event, found.image, found.evidence))
            detail = not_stored and f"The mark counts, but no training can use the picture: {not_stored}."
        try:
            event = add_mark(self._socket, self._journal, mark)
        except (DeliveryError, JournalError) as problem:
            raise HTTPException(503, f"{kept}{problem}") from problem
        self._memory.add_review(event)  # else a question right after the answer would not find it
        known = {"id": mark.id, "seq": event.seq, "journal_id": event.journal_id}
        return {**known, "stored": detail is None, "detail": detail}

    def _keep(self, picture: HeldPicture, kind: MarkKind) -> str:
        """Keep a frame of a line that collects under its label; return how an error goes on from there."""
        label: Label = "good" if kind == "good" else "defective" if kind == "defective" else "unlabelled"
        path = LabelFolder(self._collected).put(name_of(picture.event), encode_frame(picture.image), label)
        return f"{path} is kept, and who kept it is not known: "

    def _review_of(self, picture: HeldPicture) -> Review | None:
        entry = self._entry(picture)
        return self._memory.review_of(picture.id, None if entry is None else entry.review)

    def _find(self, wanted: str) -> HeldPicture:
        try:
            return self._memory.pictures.all().get(wanted) or self._opened(wanted)
        except LookupError as problem:
            raise HTTPException(
                404,
                f"there is no picture {wanted[:200]!a}: it was not stored, or is deleted already; [evidence] in the "
                "line's file says which are stored, and for how long",
            ) from problem

    def _entry(self, picture: HeldPicture) -> EvidenceEntry | None:
        """Return the entry of a picture in the evidence store; None: it has none."""
        return None if self._store is None else self._store.find(picture.id)

    def _missed(self, status: StatusEvent | None, threshold: float | None) -> str | None:
        """Describe what the line's bundle is known to miss; None if the line uses another score threshold, logits."""
        calibration = None if status is None else self._references.calibration_of(status)
        if calibration is None or calibration.score_threshold != threshold:
            return None
        if not any(kind.missed for kind in calibration.missed):
            return None
        passing = describe_passing(calibration.missed)
        first = f"At the line's limit, whole kinds of defects pass: {passing}. " if passing else ""
        return f"{first}Missed in the cross-validation of the training, {describe_missed(calibration.missed)}."


def json(value: object, status: int = 200) -> Response:
    """Return a value as JSON that no browser stores."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")


def error(status: int, sentence: str) -> Response:
    """Return why a request is not answered."""
    return json({"error": sentence}, status)


async def refused(_: Request, problem: Exception) -> Response:
    """Answer a request that no route takes, or that was refused."""
    assert isinstance(problem, HTTPException)
    return error(problem.status_code, problem.detail)


async def failed(_: Request, problem: Exception) -> Response:
    """Answer a request that failed: 503 if the line does not answer, 409 if what is asked for does not fit the line or
    this machine, 500 at a disk that cannot be used, or a bug, which is logged.
    """
    if not isinstance(problem, HeatlineError):
        _log.error("a request was not answered: %s", problem, exc_info=problem)
    if isinstance(problem, DeliveryError | JournalError):
        return error(503, str(problem))
    is_conflict = isinstance(problem, HeatlineError) and not isinstance(problem, InputError)
    return error(409 if is_conflict else 500, str(problem))


HANDLERS = {HTTPException: refused, HeatlineError: failed, Exception: failed}
"""For an application with these answers."""


def writes(path: str, kind: type[T], do: Callable[[T], object]) -> Route:
    """Return the route of a request that changes something, answered with what `do` returns once that is done; the
    request's body is a struct with the field `by`.
    """
    decode = msgspec.json.Decoder(kind).decode

    def answer_to(body: bytes, person: str | None) -> Response:
        try:
            wanted: Any = decode(body)
        except UNREADABLE as problem:
            raise HTTPException(400, f"this is not a request for {path}: {problem}; see docs/view.md") from problem
        if person is not None:  # whose key it is counts, whatever name the page has
            wanted = msgspec.structs.replace(wanted, by=person)
        return json(do(wanted))

    async def answer(request: Request) -> Response:
        body = await read_body(request, LARGEST_REQUEST)
        if body is None:
            raise HTTPException(413, f"the request has more than {LARGEST_REQUEST} bytes; name fewer positions")
        return await run_in_threadpool(answer_to, body, request.scope.get(PERSON))

    return Route(path, answer, methods=["POST"])


async def read_body(request: Request, most: int) -> bytes | None:
    """Return the body of a request; None: it has more bytes than `most`."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return body


def _number(request: Request, key: str, default: int | None, least: int, most: int) -> int:
    text = request.query_params.get(key)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise HTTPException(400, f"{key} is {(text or '')[:40]!r}; expected a whole number from {least} to {most}")
    return number


def _picture(data: bytes, kind: str = "image/png") -> Response:
    return Response(data, headers={"cache-control": FOREVER}, media_type=kind)
