"""A line's pictures, received by programs through the real socket; programs that misbehave; and overloaded lines."""

import contextlib
import gc
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.pattern import frame_id_of
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Outcome, Setup, Unjudged
from heatline.edge.monitor import feed as feed_module
from heatline.edge.monitor.feed import MOST_CLIENTS, PictureFeed
from heatline.edge.monitor.pictures import Hello, Picture, PictureClient, Report, picture_socket
from heatline.edge.service.events import verdict_message
from heatline.edge.util.channel import ReleaseSlot
from heatline.edge.wire.events import EvidenceState, HeatmapPng, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.lines import (
    POLL_SECONDS,
    RunningLine,
    line_started,
    setup_of,
    started,
    write_line_with,
)
from tests.edge.secured import until
from tests.edge.supervised import held, in_thread
from tests.small_bundle import dark_square, white_frame

WHITE, DARK = white_frame(), dark_square(white_frame(), 100, 300)


class Line:
    """Judges frames, and offers their outcomes as the line does."""

    def __init__(self, feed: PictureFeed, setup: Setup, path: Path) -> None:
        self.feed, self.setup, self.path, self.number = feed, setup, path, 0

    def connect(self, **wishes: int) -> PictureClient:
        """Connect a client, and wait until the line has read what it wants."""
        before = self.known()
        client = PictureClient(self.path, **wishes)
        until(lambda: self.known() == before + 1)
        return client

    # The line tells nobody when it has read a message, so these look into the feed.

    def known(self) -> int:
        """The number of clients whose wishes the line knows."""
        return sum(client.wishes is not None for client in self.feed._clients)

    def held(self) -> int:
        """The number of slots that the first client holds."""
        return len(self.feed._clients[0].ring.held)

    def has_nobody(self) -> bool:
        return not self.feed._clients

    def judge(
        self, image: NDArray[np.uint8], camera: str = "top", sent_as: str | None = None, captured_ms: int | None = None
    ) -> Outcome:
        self.number += 1
        stamp = Stamp(camera, self.number, number=self.number)
        if captured_ms is not None:
            stamp = replace(stamp, captured_monotonic_ns=captured_ms * 1_000_000)
        frame = Frame(stamp, image, "RGB8", sent_as=sent_as)  # type: ignore[arg-type]
        judgement = self.setup.inspector.finish(self.setup.inspector.start(frame))
        return Outcome(frame.stamp, judgement=judgement, setup=self.setup, frame=frame)

    def offer(self, outcome: Outcome) -> VerdictEvent:
        event = verdict_message("0123456789ab", outcome).event
        assert isinstance(event, VerdictEvent)
        self.feed.offer(event, outcome)
        return event

    def show(self, *images: NDArray[np.uint8]) -> list[VerdictEvent]:
        return [self.offer(self.judge(image)) for image in images]


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, openvino: Engine) -> Iterator[Line]:
    path = tmp_path / "pictures" / "line"
    with contextlib.closing(PictureFeed(path)) as feed:
        yield Line(feed, setup_of(bundle, openvino), path)


def received(client: PictureClient) -> Picture:
    picture = client.receive(WITHIN_SECONDS)
    assert picture is not None, "no picture came"
    return picture


@pytest.mark.parametrize("sent_as", ["RGB8", "Mono12"])
def test_a_picture_arrives_to_the_last_byte_with_what_its_verdict_rests_on(line: Line, sent_as: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*WHITE.shape[:2], 1), np.uint8)
    is_grey = sent_as == "Mono12"
    image = np.concatenate([noise] * 3 if is_grey else [noise, noise // 2, noise // 3], 2)
    with line.connect(slots=2) as client:
        outcome = line.judge(image, sent_as=sent_as)
        refused = Outcome(outcome.stamp, unjudged=Unjudged("failed", "implausible", "dark"), setup=line.setup)
        assert line.offer(refused).picture is None, "without pixels"
        event = line.offer(replace(refused, frame=outcome.frame))
        picture = received(client)
        assert (picture.event, picture.evidence) == (event, None)
        event = line.offer(outcome)
        picture, judgement = received(client), outcome.judgement
        assert picture.event == event
        assert (event.picture, event.seq, event.journal_id) == ("01234567-top-1", 0, None)
        assert np.array_equal(picture.image, image[..., 0] if is_grey else image)
        assert not picture.image.flags.writeable
        assert np.array_equal(picture.evidence.heatmap, judgement.heatmap, equal_nan=True)
        grid, ends = line.setup.bundle.manifest.grid, line.setup.scale
        assert picture.evidence.scale == HeatmapPng(
            hw=judgement.heatmap.shape, cell_px=grid.heatmap_cell_px, logit_at_0=ends.low, logit_at_255=ends.high
        )
        np.testing.assert_array_equal(picture.evidence.tiles.origins_yx, judgement.tiles.origins_yx)
        np.testing.assert_array_equal(picture.evidence.tiles.logits, judgement.tiles.logits)


def test_a_client_gets_good_frames_of_each_camera_as_often_as_it_wants_and_all_others(line: Line) -> None:
    with (
        line.connect(slots=16, good_every=3) as some,
        line.connect(slots=16, good_every=0) as bad,
        line.connect(slots=16, good_interval_ms=200) as seldom,
    ):
        for at_ms in (1000, 1100, 1199, 1200, 1350, 1900, 1950):
            line.offer(line.judge(WHITE, captured_ms=at_ms))
            line.offer(line.judge(WHITE, "side", captured_ms=at_ms + 1))
        line.offer(line.judge(DARK, captured_ms=1951))
        for client, times in ((some, (1199, 1900)), (bad, ()), (seldom, (1000, 1200, 1900))):
            goods = [came for at in times for came in (("top", "GOOD", at), ("side", "GOOD", at + 1))]
            events = [received(client).event for _ in range(len(goods) + 1)]
            assert client.receive(0) is None
            came = [(e.camera, e.verdict, e.times.captured_monotonic_ns // 1_000_000) for e in events]
            assert came == [*goods, ("top", "DEFECT", 1951)]


def test_a_client_that_holds_its_pictures_gets_no_more_and_what_it_holds_stays_valid(line: Line) -> None:
    large = white_frame((900, 1400))
    with line.connect(slots=2) as slow, line.connect(slots=16) as quick:
        line.show(*[WHITE] * 5)
        first, second = received(slow), received(slow)
        assert slow.receive(0) is None
        second.release()
        second.release()  # once is enough
        until(lambda: line.held() == 1)
        line.show(large, WHITE)  # a larger one gets new memory
        third = received(slow)
        assert third.event.frame_number == 6
        assert np.array_equal(third.image, large)
        third.release()
        until(lambda: line.held() == 1)
        line.show(DARK)
        assert np.array_equal(received(slow).image, DARK)
        assert np.array_equal(first.image, WHITE), "nobody writes to a slot that is held"
        assert [received(quick).event.frame_number for _ in range(8)] == list(range(1, 9))


def test_a_clients_memory_is_bounded_but_for_one_picture(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    slot_bytes = 2 * feed_module.SLOT_STEP_BYTES
    assert slot_bytes / 2 < WHITE.nbytes < 0.75 * slot_bytes
    for most_bytes, slots, count in ((3 * slot_bytes, 16, 3), (3 * slot_bytes, 2, 2), (slot_bytes // 2, 2, 1)):
        monkeypatch.setattr(feed_module, "MOST_BYTES", most_bytes)
        with line.connect(slots=slots) as client:
            shown = line.show(*[WHITE] * 4)
            assert [received(client).event for _ in range(count)] == shown[:count]
            assert client.receive(0) is None
        until(line.has_nobody)


def test_pictures_outlive_the_line_and_their_end_is_an_error(line: Line) -> None:
    with line.connect(slots=2) as client:
        line.show(DARK, WHITE)
        first = received(client)
        line.feed.close()
        assert np.array_equal(received(client).image, WHITE), "what was sent before comes first"
        with pytest.raises(DeliveryError, match="the line has ended"):
            client.receive(WITHIN_SECONDS)
        first.release()
        assert np.array_equal(first.image, DARK)
    with pytest.raises(DeliveryError, match="check that the line runs"):
        PictureClient(line.path)


CLIENT = """
import sys
from pathlib import Path
from heatline.edge.monitor.pictures import PictureClient
with PictureClient(Path(sys.argv[1]), slots=2) as client:
    print("connected", flush=True)
    while True:
        client.receive(None).release()
"""


def test_a_client_that_sends_what_is_not_valid_is_disconnected_and_others_are_not(line: Line) -> None:
    encode, hello = msgspec.msgpack.encode, msgspec.msgpack.encode(Hello(1, 1))
    with line.connect() as client:
        for messages in (
            [b"\xc1"],
            [b"x" * 100_000],
            [hello, hello],
            [encode(ReleaseSlot(1, 0))],
            [hello, encode(ReleaseSlot(-1, -1))],
            [encode(Hello(1000, 1))],
            [encode(Report(EvidenceState()))],
            [hello, encode(["Report", {"kept": "many"}])],
            [encode(["AddMark", {"kind": "right", "by": "\n"}])],
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
                end.settimeout(WITHIN_SECONDS)
                end.connect(os.fspath(line.path))
                with contextlib.suppress(ConnectionError):
                    for message in messages:
                        end.send(message)
                    while end.recv(1 << 16):  # messages may come before the end of the connection
                        pass
        (event,) = line.show(DARK)
        assert received(client).event == event
    until(line.has_nobody)


def test_too_many_programs_are_disconnected_until_one_leaves(line: Line) -> None:
    with contextlib.ExitStack() as clients:
        first, *_ = [clients.enter_context(line.connect()) for _ in range(MOST_CLIENTS)]
        with PictureClient(line.path) as one_more, pytest.raises(DeliveryError, match="the line has ended"):
            one_more.receive(WITHIN_SECONDS)
        first.close()
        until(lambda: line.known() == MOST_CLIENTS - 1)
        clients.enter_context(line.connect())


def test_clients_that_come_and_go_leave_nothing_behind(line: Line) -> None:
    line.connect().close()
    until(line.has_nobody)
    gc.collect()
    before = held()
    for turn in range(12):
        with line.connect(slots=2) as client:
            line.show(WHITE, DARK, DARK)
            if turn % 2:
                received(client)
        until(line.has_nobody)
    del client
    gc.collect()
    assert held() - before == set()


def test_only_this_user_can_reach_the_socket_and_one_that_a_killed_line_left_is_replaced(line: Line) -> None:
    assert [stat.S_IMODE(each.stat().st_mode) for each in (line.path, line.path.parent)] == [0o600, 0o700]
    left = line.path.with_name("left")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.bind(os.fspath(left))
    with pytest.raises(DeliveryError, match="Connection refused"):
        PictureClient(left)
    with contextlib.closing(PictureFeed(left)):
        PictureClient(left).close()


def test_each_line_has_a_socket_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    a, b = (tmp_path / folder / ("line" * 30 + ".toml") for folder in "ab")
    assert picture_socket(a) != picture_socket(b)
    assert picture_socket(a) == picture_socket(Path("b/../a") / a.name)
    assert len(os.fspath(picture_socket(a))) < 108
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/heatline/line1")
    assert picture_socket(a) == Path("/run/heatline/line1/pictures")


OVERLOADED = {"kind": "pattern", "rate_fps": 1000, "draw_size": [640, 480]}
LATE = {**OVERLOADED, "deadline_ms": 150.0}
"""On a busy machine, all its verdicts may be too late."""
MORE_THAN_MEMORY_HOLDS = 16
"""A camera has memory for 13 frames."""


@contextlib.contextmanager
def quick(path: Path) -> Iterator[list[Picture]]:
    """Receive all pictures, copy their pixels and release them; check each against its event."""
    pictures: list[Picture] = []

    def receive() -> None:
        with PictureClient(path, slots=4) as client, contextlib.suppress(DeliveryError):
            while True:
                picture = client.receive(None)
                assert frame_id_of(np.array(picture.image)) == picture.event.frame_id
                pictures.append(picture)
                picture.release()

    thread = in_thread(receive)
    yield pictures
    thread.join()


@contextlib.contextmanager
def stopped(path: Path) -> Iterator[None]:
    with started(sys.executable, "-c", CLIENT, path) as process:
        assert process.stdout.readline() == "connected\n"
        process.send_signal(signal.SIGSTOP)
        yield


@pytest.mark.parametrize("client", [quick, stopped])
def test_an_overloaded_line_reports_every_frame_whoever_receives_its_pictures(
    tmp_path: Path, bundle: Bundle, address: str, client: Callable[[Path], AbstractContextManager[object]]
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": LATE, "side": OVERLOADED})
    path = picture_socket(line)
    with contextlib.ExitStack() as at_end:
        process = at_end.enter_context(line_started(line))
        until(path.exists)
        pictures = at_end.enter_context(client(path))
        # The line begins with its first subscriber.
        run = RunningLine(process, at_end.enter_context(Subscriber(address, timeout_s=POLL_SECONDS)))
        dropped: set[str] = set()
        while dropped != {"top", "side"}:
            dropped |= {run.until(lambda each: getattr(each, "reason", "") == "dropped.overload").camera}
        for _ in range(MORE_THAN_MEMORY_HOLDS):  # so nobody keeps the memory of a camera
            run.until_inspected("side")
        heard = run.end(["top", "side"])
    top = heard.last.ledger["top"]
    assert top.inspected + top.dropped.get("deadline", 0) > 0
    assert all((event.picture is not None) == (event.verdict != "NO_VERDICT") for event in heard.verdicts)
    if isinstance(pictures, list):
        published = {event.picture: event.frame_score for event in heard.verdicts}
        assert pictures
        assert all(each.event.frame_score == published[each.event.picture] for each in pictures)
        assert not path.exists()
