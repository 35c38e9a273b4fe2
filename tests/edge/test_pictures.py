"""A line's pictures, received by programs through the real socket; and programs that misbehave."""

import contextlib
import gc
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Outcome, Setup, Unjudged
from heatline.edge.monitor import feed as feed_module
from heatline.edge.monitor.feed import MOST_CLIENTS, PictureFeed
from heatline.edge.monitor.pictures import (
    AddMark,
    Hello,
    Picture,
    PictureClient,
    Report,
    picture_socket,
)
from heatline.edge.service.events import verdict_message
from heatline.edge.util.channel import ReleaseSlot, RingWriter
from heatline.edge.wire.events import EvidenceState, Mark, ReviewEvent, VerdictEvent
from tests.command import process_env
from tests.edge.secured import until
from tests.edge.setups import setup_of
from tests.edge.supervised import held, stop
from tests.edge.wire_examples import GOLDEN
from tests.small_bundle import dark_square, white_frame

WITHIN_SECONDS = 20.0
WHITE, DARK = white_frame(), dark_square(white_frame(), 100, 300)


@pytest.fixture
def setup(bundle: Bundle, openvino: Engine) -> Setup:
    return setup_of(bundle, openvino)


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[PictureFeed]:
    feed = PictureFeed(tmp_path / "pictures" / "line")
    yield feed
    feed.close()


class Line:
    """Judges frames, and offers their outcomes as the line does."""

    def __init__(self, feed: PictureFeed, setup: Setup, path: Path) -> None:
        self.feed, self.setup, self.path, self.number = feed, setup, path, 0

    def connect(self, *, slots: int = 1, good_every: int = 1, good_interval_ms: int = 0) -> PictureClient:
        """Connect a client, and wait until the line has read what it wants."""
        before = self.known()
        client = PictureClient(self.path, slots=slots, good_every=good_every, good_interval_ms=good_interval_ms)
        until(lambda: self.known() == before + 1)
        return client

    def known(self) -> int:
        return sum(client.wishes is not None for client in self.feed._clients)

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
def line(feed: PictureFeed, setup: Setup) -> Line:
    return Line(feed, setup, feed._path)


def received(client: PictureClient) -> Picture:
    picture = client.receive(WITHIN_SECONDS)
    assert picture is not None, "no picture came"
    return picture


# Pictures.


@pytest.mark.parametrize("sent_as", ["RGB8", "Mono8", "Mono12", "BayerRG8"])
def test_a_picture_arrives_to_the_last_byte_with_what_its_verdict_rests_on(line: Line, sent_as: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*WHITE.shape[:2], 1), np.uint8)
    image = (
        np.repeat(noise, 3, axis=2)
        if sent_as.startswith("Mono")
        else np.concatenate([noise, noise // 2, noise // 3], 2)
    )
    with line.connect() as client:
        outcome = line.judge(image, sent_as=sent_as)
        event = line.offer(outcome)
        picture = received(client)
        assert picture.event == event
        assert (event.picture, event.seq, event.journal_id) == ("01234567-top-1", 0, None)
        assert np.array_equal(picture.image, image[..., 0] if sent_as.startswith("Mono") else image)
        judgement, evidence = outcome.judgement, picture.evidence
        assert judgement is not None
        assert evidence is not None
        assert np.array_equal(evidence.heatmap, judgement.heatmap, equal_nan=True)
        assert evidence.cell_px == line.setup.bundle.manifest.grid.heatmap_cell_px
        assert evidence.scale == (line.setup.scale.low, line.setup.scale.high)
        assert [tuple(origin) for origin in evidence.tiles.origins_yx] == list(
            line.setup.inspector.stitcher(WHITE.shape[:2]).grid.origins_yx  # type: ignore[arg-type]
        )
        assert evidence.tiles.logits.max() == np.float32(event.frame_score)
        assert not picture.image.flags.writeable


def test_a_frame_that_was_not_judged_comes_without_evidence_and_one_without_pixels_not_at_all(line: Line) -> None:
    with line.connect() as client:
        judged = line.judge(WHITE)
        refused = Outcome(judged.stamp, unjudged=Unjudged("failed", "implausible", "dark"), setup=line.setup)
        assert line.offer(refused).picture is None
        event = line.offer(replace(refused, frame=judged.frame))
        picture = received(client)
        assert (picture.event, picture.evidence) == (event, None)
        assert np.array_equal(picture.image, WHITE)
        assert client.receive(0) is None


def test_a_client_gets_what_it_wants_of_each_camera(line: Line) -> None:
    with line.connect(slots=16, good_every=3) as some, line.connect(slots=16, good_every=0) as bad:
        for _ in range(7):
            line.offer(line.judge(WHITE))
            line.offer(line.judge(WHITE, "side"))
        line.show(DARK)
        cameras = [(picture.event.camera, picture.event.verdict) for picture in (received(some) for _ in range(5))]
        assert cameras == [("top", "GOOD"), ("side", "GOOD")] * 2 + [("top", "DEFECT")]
        assert received(bad).event.verdict == "DEFECT"
        assert (some.receive(0), bad.receive(0)) == (None, None)


def test_a_client_gets_good_frames_of_a_camera_no_sooner_than_it_wants_and_all_others(line: Line) -> None:
    with line.connect(slots=16, good_interval_ms=200) as client:
        for at_ms in (1000, 1100, 1199, 1200, 1350, 1900):
            line.offer(line.judge(WHITE, captured_ms=at_ms))
        line.offer(line.judge(WHITE, "side", captured_ms=1901))
        line.offer(line.judge(DARK, captured_ms=1902))
        pictures = [received(client) for _ in range(5)]
        assert client.receive(0) is None
    captured = [(p.event.camera, p.event.verdict, p.event.times.captured_monotonic_ns // 1_000_000) for p in pictures]
    assert captured == [
        ("top", "GOOD", 1000),
        ("top", "GOOD", 1200),
        ("top", "GOOD", 1900),
        ("side", "GOOD", 1901),
        ("top", "DEFECT", 1902),
    ]


def test_a_client_that_holds_its_pictures_gets_no_more(line: Line) -> None:
    with line.connect(slots=2) as slow, line.connect(slots=16) as quick:
        line.show(*[WHITE] * 5)
        first, second = received(slow), received(slow)
        assert slow.receive(0) is None
        second.release()
        second.release()  # once is enough
        until(lambda: len(line.feed._clients[0].ring.held) == 1)
        line.show(DARK, WHITE)
        third = received(slow)
        assert third.event.frame_number == 6
        assert np.array_equal(third.image, DARK)
        assert np.array_equal(first.image, WHITE), "nobody writes to a slot that is held"
        assert [received(quick).event.frame_number for _ in range(7)] == list(range(1, 8))


def test_larger_pictures_get_new_memory_and_earlier_ones_stay_valid(line: Line) -> None:
    large = white_frame((900, 1400))
    with line.connect(slots=2) as client:
        line.show(DARK, large)
        small, big = received(client), received(client)
        assert np.array_equal(small.image, DARK)
        assert np.array_equal(big.image, large)
        small.release()
        until(lambda: len(line.feed._clients[0].ring.held) == 1)
        line.show(DARK, WHITE)
        assert np.array_equal(received(client).image, DARK)
        assert np.array_equal(big.image, large)
        assert client.receive(0) is None, "it holds two"


def test_the_memory_of_a_client_is_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    slot_bytes = 2 * feed_module.SLOT_STEP_BYTES
    monkeypatch.setattr(feed_module, "MOST_BYTES", 3 * slot_bytes)
    assert slot_bytes / 2 < WHITE.nbytes < 0.75 * slot_bytes
    with line.connect(slots=16) as many, line.connect(slots=2) as few:
        line.show(*[WHITE] * 4)
        for client, count in ((many, 3), (few, 2)):
            assert [received(client).event.frame_number for _ in range(count)] == [1, 2, 3][:count]
            assert client.receive(0) is None


def test_one_picture_may_take_more_than_the_memory(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MOST_BYTES", feed_module.SLOT_STEP_BYTES)
    with line.connect(slots=2) as client:
        line.show(*[WHITE] * 2)
        assert np.array_equal(received(client).image, WHITE)
        assert client.receive(0) is None


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
    line.feed = PictureFeed(line.path)
    assert line.known() == 0
    line.feed.close()


def test_nothing_is_done_for_nobody(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a picture was prepared")

    outcome = line.judge(WHITE)
    monkeypatch.setattr(feed_module, "_content_of", fail)
    line.offer(outcome)
    with line.connect(good_every=0) as client:
        line.offer(outcome)
        assert client.receive(0) is None


def test_a_client_for_which_there_is_no_memory_is_disconnected(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with line.connect() as client:
        monkeypatch.setattr(RingWriter, "make", fail)
        line.show(WHITE)
        with pytest.raises(DeliveryError, match="the line has ended"):
            client.receive(WITHIN_SECONDS)


# The evidence store's state.


def test_reports_are_summed_over_all_stores(tmp_path: Path, setup: Setup) -> None:
    feed = PictureFeed(tmp_path / "pictures" / "line")
    line = Line(feed, setup, feed._path)
    try:
        line.show(DARK, WHITE, DARK)
        assert feed.evidence() == (EvidenceState(), None)
        with line.connect() as store:
            store.report(EvidenceState(kept=5, skipped=1, stored=7, fault="full"))
            until(lambda: feed.evidence()[1] is not None)
            assert feed.evidence()[0] == EvidenceState(kept=5, skipped=1, stored=7, fault="full")
            line.show(DARK, DARK)  # one is held, one is skipped: both are lost with the store
            assert feed.evidence()[0].skipped == 2
            received(store).release()
            until(lambda: not feed._clients[0].ring.held)
            line.show(DARK)
            assert feed.evidence()[0].skipped == 2, "a count never falls, also when the next picture is sent"
        until(lambda: feed.evidence()[1] is None)
        assert feed.evidence()[0] == EvidenceState(kept=5, skipped=3, stored=7), "what is stored is there still"
    finally:
        feed.close()


# Programs that misbehave.


@contextlib.contextmanager
def raw(path: Path, *messages: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.settimeout(WITHIN_SECONDS)
        end.connect(os.fspath(path))
        for message in messages:
            end.send(message)
        yield end


def is_disconnected(end: socket.socket) -> bool:
    """Wait for the end of a connection; messages may come before."""
    with contextlib.suppress(ConnectionError):
        while end.recv(1 << 16):
            pass
    return True


encode = msgspec.msgpack.encode
HELLO = encode(Hello(1, 1))
HOSTILE: list[tuple[bytes, ...]] = [
    (b"\xc1",),
    (b"x" * 100_000,),
    (HELLO, HELLO),
    (encode(ReleaseSlot(1, 0)),),
    (HELLO, encode(ReleaseSlot(1, 0))),
    (HELLO, encode(ReleaseSlot(-1, -1))),
    (encode(Hello(0, 1)),),
    (encode(Hello(1000, 1)),),
    (encode(Hello(1, -1)),),
    (encode(Report(EvidenceState())),),
    (HELLO, encode(["Report", b"nonsense"])),
    (HELLO, encode(["Report", {"kept": "many"}])),
    (HELLO, encode(["NewRing", 1, 1, 1])),
    (encode(["AddMark", {"kind": "right", "by": "\n"}]),),
]


def test_marks_come_in_order_from_programs_that_want_no_pictures(line: Line) -> None:
    came: list[Mark] = []
    line.feed.on_mark = came.append
    example = GOLDEN["review"].event
    assert isinstance(example, ReviewEvent)
    sent = [replace_fields(example.mark, id=str(number)) for number in range(20)]
    with raw(line.path, *(encode(AddMark(mark)) for mark in sent)):
        until(lambda: len(came) == len(sent))
    assert came == sent


@pytest.mark.parametrize("messages", HOSTILE, ids=range(len(HOSTILE)))
def test_a_client_that_sends_what_is_not_valid_is_disconnected_and_others_are_not(
    line: Line, messages: tuple[bytes, ...]
) -> None:
    with line.connect() as client:
        with raw(line.path, *messages) as end:
            assert is_disconnected(end)
        (event,) = line.show(DARK)
        assert received(client).event == event
    until(lambda: not line.feed._clients)


@settings(deadline=None)
@given(messages=st.lists(st.binary(min_size=1, max_size=80), max_size=5))
def test_arbitrary_bytes_leave_no_client_behind(
    tmp_path_factory: pytest.TempPathFactory, messages: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("feed") / "p" / "line"
    feed = PictureFeed(path)
    with raw(path) as end, contextlib.suppress(ConnectionError):
        for message in messages:
            end.send(message)
    until(lambda: not feed._clients)
    assert feed._thread.is_alive()
    feed.close()
    assert not path.exists()


def test_a_forged_release_of_another_slot_ends_the_client(line: Line) -> None:
    with raw(line.path, encode(Hello(2, 1))) as end:
        until(lambda: line.known() == 1)
        line.show(WHITE)
        (given,) = line.feed._clients[0].ring.held
        end.send(encode(ReleaseSlot(1, 1 - given[1])))
        assert is_disconnected(end)
    line.show(WHITE)  # for nobody


def test_too_many_programs_are_disconnected_until_one_leaves(line: Line) -> None:
    with contextlib.ExitStack() as clients:
        first, *_ = [clients.enter_context(line.connect()) for _ in range(MOST_CLIENTS)]
        with PictureClient(line.path) as one_more, pytest.raises(DeliveryError, match="the line has ended"):
            one_more.receive(WITHIN_SECONDS)
        first.close()
        until(lambda: len(line.feed._clients) == MOST_CLIENTS - 1)
        clients.enter_context(line.connect())


CLIENT = """
import sys
from pathlib import Path
from heatline.edge.monitor.pictures import PictureClient
with PictureClient(Path(sys.argv[1]), slots=2) as client:
    print("connected", flush=True)
    while True:
        picture = client.receive(None)
        print(picture.event.frame_number, flush=True)
        if sys.argv[2] == "releases":
            picture.release()
"""


@contextlib.contextmanager
def program_of(path: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """A real process that receives pictures and prints their numbers; it is connected once it prints `connected`."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(path), what], stdout=subprocess.PIPE, text=True, env=process_env(None)
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def program(line: Line, what: str) -> Iterator[subprocess.Popen[str]]:
    """A real process that receives a line's pictures."""
    with program_of(line.path, what) as process:
        until(lambda: line.known() == 1)
        yield process


@pytest.mark.parametrize("end", ["killed while it holds pictures", "stopped and never reads", "stopped and killed"])
def test_a_program_that_is_killed_or_stands_still_delays_nothing(line: Line, end: str) -> None:
    gc.collect()
    with program(line, "releases" if end.startswith("stopped") else "holds") as process:
        assert process.stdout is not None
        line.show(WHITE)
        assert process.stdout.readline() == "1\n"
        if end.startswith("stopped"):
            stop(process.pid)
        line.show(*[DARK] * 30)
        assert len(line.feed._clients[0].ring.held) <= 2
        if end == "stopped and never reads":
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "2\n", "it goes on with what was sent"
        process.kill()
        process.wait()
    until(lambda: not line.feed._clients)
    line.show(WHITE)


def test_clients_that_come_and_go_leave_nothing_behind(line: Line) -> None:
    line.connect().close()
    until(lambda: not line.feed._clients)
    gc.collect()
    before = held()
    for turn in range(12):
        with line.connect(slots=2) as client:
            line.show(WHITE, DARK, DARK)
            if turn % 2:
                received(client)
        until(lambda: not line.feed._clients)
    del client
    gc.collect()
    assert held() - before == set()


# The socket.


def test_a_line_without_a_descriptor_left_waits_for_one(line: Line) -> None:
    ident = line.feed._thread.ident
    assert ident is not None
    clock = time.pthread_getcpuclockid(ident)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # those that are open stay
        try:
            client.connect(os.fspath(line.path))
            before_s = time.clock_gettime(clock)
            time.sleep(1.0)
            assert time.clock_gettime(clock) - before_s < 0.2
            assert len(line.feed._clients) == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: len(line.feed._clients) == 1)


def test_only_this_user_can_reach_the_socket(line: Line) -> None:
    assert stat.S_IMODE(line.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(line.path.parent.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").touch()
    with pytest.raises(DeliveryError, match="shared"):
        PictureFeed(tmp_path / "shared" / "line")


def test_a_socket_that_a_killed_line_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "line"
    path.parent.mkdir(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(os.fspath(path))
    with pytest.raises(DeliveryError, match="Connection refused"):
        PictureClient(path)
    feed = PictureFeed(path)
    PictureClient(path).close()
    feed.close()


def test_each_line_has_a_socket_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.chdir(tmp_path)
    a, b = tmp_path / "a" / ("line" * 30 + ".toml"), tmp_path / "b" / ("line" * 30 + ".toml")
    assert picture_socket(a) != picture_socket(b)
    assert picture_socket(a) == picture_socket(Path("a") / a.name) == picture_socket(Path("b/../a") / a.name)
    assert picture_socket(a).parent.name == f"heatline-{os.geteuid()}"
    assert len(os.fspath(picture_socket(a))) < 108
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert picture_socket(a).parent == tmp_path / "heatline"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/heatline/line1")
    assert picture_socket(a) == Path("/run/heatline/line1/pictures")
