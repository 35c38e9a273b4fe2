"""Takes marks of people from the page, and answers once the line has journalled them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heatline.edge.errors import DeliveryError, HeatlineError, InputError
from heatline.edge.monitor.client import send_mark
from heatline.edge.monitor.inbox import put
from heatline.edge.monitor.marking import mark_of
from heatline.edge.monitor.picture import Picture
from heatline.edge.monitor.pictures import Found, Pictures
from heatline.edge.monitor.responses import error, json
from heatline.edge.monitor.reviews import Reviews
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import ReviewEvent
from heatline.edge.wire.marks import Mark, MarkKind

LARGEST_REQUEST = 8192
"""Bytes."""
JOURNALLED_WITHIN_SECONDS = 5.0
MOST_MARKS_PER_MINUTE = 300
"""Of all reviewers together: marks fill the journal, which deletes its oldest events if it is full."""


class MarkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says of a verdict."""

    picture: str
    kind: MarkKind
    by: str
    at_xy: list[tuple[int, int]] = []


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """The line has journalled a mark."""

    id: str
    """Of the mark."""
    seq: int
    journal_id: str
    stored: bool
    """Whether the picture is stored, or will be in a moment, so that a training can use it."""
    detail: str | None
    """Why not, as a sentence."""


_decode = msgspec.json.Decoder(MarkRequest).decode


class Marks:
    """Sends marks to the line.

    Args:
        line: the line's name.
        socket: the line's socket for pictures, which also takes marks.
        evidence: folder of the line's evidence store; None: it stores no pictures.
        workers: threads that read and write the disk, and connect to the line.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        line: str,
        socket: Path,
        evidence: Path | None,
        reviews: Reviews,
        pictures: Pictures,
        workers: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line, self._socket, self._evidence = line, socket, evidence
        self._reviews, self._pictures, self._workers = reviews, pictures, workers
        self._clock = clock
        self._sent_s: deque[float] = deque(maxlen=MOST_MARKS_PER_MINUTE)

    async def answer(self, request: Request) -> Response:
        """Answer a request to mark a verdict."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return error(415, "expected a mark as JSON, with Content-Type: application/json")
        body = await _body(request)
        if body is None:
            return error(413, f"the mark has more than {LARGEST_REQUEST} bytes; expected fewer, with fewer positions")
        try:
            wanted = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            return error(400, f"this is not a mark: {problem}; expected picture, kind, by, and at_xy if missed")
        if not self._is_allowed():
            return error(
                429, f"{format_count(MOST_MARKS_PER_MINUTE, 'mark')} came within a minute, which is the most; wait"
            )
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._workers, self._pictures.find, wanted.picture)
        if found is None:
            return error(
                404,
                f"there is no picture {wanted.picture[:200]!a}: it was not stored, or is deleted already; mark a frame "
                "whose picture the page shows",
            )
        try:
            mark = mark_of(found.picture.event, wanted.kind, wanted.by, wanted.at_xy)
        except InputError as problem:
            return error(400 if _may_have(found, wanted.kind) else 409, str(problem))
        if mark.kind == "withdrawn" and not await loop.run_in_executor(self._workers, self._has_mark, found, mark.by):
            return error(409, f"{mark.by} has no mark of this picture to take back")
        not_stored = await loop.run_in_executor(self._workers, self._store, found)
        return await self._send(mark, not_stored)

    async def _send(self, mark: Mark, not_stored: str | None) -> Response:
        journalled = self._reviews.expect(mark.id)
        try:
            await asyncio.get_running_loop().run_in_executor(self._workers, send_mark, self._socket, mark)
            event = await asyncio.wait_for(asyncio.wrap_future(journalled), JOURNALLED_WITHIN_SECONDS)
        except DeliveryError as problem:
            return error(503, _why_not_sent(problem))
        except TimeoutError:
            return error(
                504,
                "it is unknown whether the mark is journalled: no event of it came from the line within "
                f"{JOURNALLED_WITHIN_SECONDS:.0f} s; if the picture does not show the mark in a moment, mark it again",
            )
        finally:
            self._reviews.forget(mark.id)
        return _answer_to(event, not_stored)

    def _is_allowed(self) -> bool:
        now_s = self._clock()
        if len(self._sent_s) == MOST_MARKS_PER_MINUTE and now_s - self._sent_s[0] < 60:
            return False
        self._sent_s.append(now_s)
        return True

    def _has_mark(self, found: Found, by: str) -> bool:
        review = self._reviews.of(found.picture.id, self._pictures.stored_review(found.picture.event))
        return review is not None and any(each.by == by for each in review.marks)

    def _store(self, found: Found) -> str | None:
        """Have a picture stored that only this program holds; return why it is not stored, or None."""
        if found.source == "evidence" or self._pictures.is_stored(found.picture.event):
            return None
        if self._evidence is None:
            return "the line stores no pictures; add a table [evidence] to its file"
        held = found.picture
        try:
            put(self._evidence, Picture(held.event, held.image, held.evidence), self._line)
        except HeatlineError as problem:
            return str(problem)
        return None


def _may_have(found: Found, kind: MarkKind) -> bool:
    """Return whether a verdict can be marked so at all."""
    verdict = found.picture.event.verdict
    return verdict == "DEFECT" or (verdict == "GOOD" and kind != "false_alarm")


def _why_not_sent(problem: DeliveryError) -> str:
    if isinstance(problem.__cause__, FileNotFoundError | ConnectionRefusedError):  # nobody listens
        return "the line does not run: start it, then mark again"
    return f"the line journals marks, and it cannot be reached: {problem}"


def _answer_to(event: ReviewEvent, not_stored: str | None) -> Response:
    if event.journal_id is None:
        return error(
            503, "the line has received the mark, but its journal stores no events now; mark it again when it does"
        )
    detail = None if not_stored is None else f"The mark counts, but no training can use the picture: {not_stored}."
    return json(
        Marked(id=event.mark.id, seq=event.seq, journal_id=event.journal_id, stored=not_stored is None, detail=detail)
    )


async def _body(request: Request) -> bytes | None:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_REQUEST:
            return None
    return body
