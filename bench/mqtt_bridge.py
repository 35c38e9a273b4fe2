"""`python -m heatline.bench.mqtt_bridge`: times the MQTT bridge between a real journal and a real mosquitto.

Measured from the commit of an event to its receipt, by a subscriber of the broker and by a durable consumer without
bridge and broker: the difference is what the bridge and the broker add. Then a backlog shows the highest rate.
"""

import argparse
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from heatline.bench.inspection_load import NICE, InspectionLoad, inspecting
from heatline.bench.journalled_line import JournalledLine, PlainConsumer
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, keep, new_report
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import BundleName, Region, Times, VerdictEvent

WITHIN_SECONDS = 60.0
COMMIT_EVERY_SECONDS = 0.005
"""The journal takes what is due in one commit, as a line does with what it has at hand."""
BATCH = 500
"""Events of a backlog in one commit."""
LINE = """
bundle = "none.bundle"
[[cameras]]
kind = "pattern"
name = "top"
[events]
bind = "ipc://{folder}/events"
[journal]
bind = "ipc://{folder}/follow"
[mqtt]
broker = "mqtt://127.0.0.1:{port}"
"""
OUTLINE = [(x, y) for x in range(0, 64, 8) for y in (0, 63)]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies, ms."""

    median: float
    p99: float
    highest: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    rate: float
    """Events a second, as they were journalled."""
    events: int
    payload_bytes: int
    """Size of one result."""
    to_subscriber_ms: Latency
    """From the commit to the subscriber of the broker."""
    to_consumer_ms: Latency
    """From the commit to a durable consumer without bridge and broker."""
    added_ms: Latency
    """The difference of the two, event by event."""
    duplicates: int
    backlog_events: int
    backlog_rate: float
    """Events a second at which the bridge published a backlog."""
    inspection: InspectionLoad | None = None
    """Of a line that inspected meanwhile. None: there was none."""


def measure_bridge(rate: float, seconds: float, backlog: int, beside: Path | None = None) -> Found:
    """Measure at a rate, and then with a backlog.

    Args:
        beside: bundle of a line that inspects meanwhile, at 80 % of its highest rate.
    Raises:
        BenchError: mosquitto is not installed, or an event did not come.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as open_:
        folder = Path(name)
        port = open_.enter_context(_broker(folder))
        line = open_.enter_context(closing(JournalledLine(folder, _defect)))
        file = folder / "line1.toml"
        file.write_text(LINE.format(folder=folder, port=port))
        load = None if beside is None else open_.enter_context(inspecting(beside))
        subscriber = _Subscriber(port)
        consumer = open_.enter_context(closing(PlainConsumer(line.address)))
        command = ["nice", "-n", str(NICE), sys.executable, "-m", "heatline.edge.cli.main", "bridge", "mqtt", str(file)]
        bridge = open_.enter_context(_process(command, folder / "bridge.log"))
        _wait(lambda: {"mqtt", "bench"} <= line.consumers.positions().keys(), "the bridge follows")
        if load is not None:
            load.begin()
        began_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + seconds:
            due = int((now_s - began_s) * rate) - len(line.committed_s)
            if due > 0:
                line.add(due)
            time.sleep(COMMIT_EVERY_SECONDS)
        measured_s, count = time.monotonic() - began_s, len(line.committed_s)
        _wait(lambda: min(subscriber.count, len(consumer.received_s)) == count, "all events came")
        inspection = None if load is None else load.measured()
        # A backlog, as after an outage: the bridge is away while it is journalled.
        bridge.terminate()
        bridge.wait(WITHIN_SECONDS)
        for _ in range(backlog // BATCH):
            line.add(BATCH)
        with _process(command, folder / "bridge-2.log"):
            _wait(lambda: subscriber.count == len(line.committed_s), "all of the backlog came")
        received = subscriber.end()
        ids = list(line.committed_s)
        to_subscriber = [received.received_s[id] - line.committed_s[id] for id in ids[:count]]
        to_consumer = [consumer.received_s[id] - line.committed_s[id] for id in ids[:count]]
        backlog_s = received.received_s[ids[-1]] - received.received_s[ids[count]]
        return Found(
            rate=round(count / measured_s, 1),
            events=count,
            payload_bytes=received.payload_bytes,
            to_subscriber_ms=_latency(to_subscriber),
            to_consumer_ms=_latency(to_consumer),
            added_ms=_latency([one - other for one, other in zip(to_subscriber, to_consumer, strict=True)]),
            duplicates=received.messages - len(ids),
            backlog_events=len(ids) - count,
            backlog_rate=round((len(ids) - count) / backlog_s),
            inspection=inspection,
        )


class _Subscriber:
    """A program of the plant, in a process of its own: in this one it would wait for the other threads."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._received, sender = context.Pipe(duplex=False)
        self._count, self._ended = context.Value("q", -1), context.Event()
        self._process = context.Process(target=_subscribe, args=(port, sender, self._count, self._ended), daemon=True)
        self._process.start()
        _wait(lambda: self.count == 0, "mosquitto takes the subscription")

    @property
    def count(self) -> int:
        """Number of different results that have come; -1 before the subscription."""
        return int(self._count.value)

    def end(self) -> "_AtSubscriber":
        """End the process; return what came."""
        self._ended.set()
        received: _AtSubscriber = self._received.recv()
        self._process.join(WITHIN_SECONDS)
        return received


class _AtSubscriber(NamedTuple):
    received_s: dict[str, float]
    """When each result came first, by its id, on the monotonic clock of the machine."""
    messages: int
    payload_bytes: int


def _subscribe(port: int, sender: Any, count: Any, ended: Any) -> None:
    """Subscribe to results until this is to end; then send what came."""
    os.nice(NICE)
    received_s: dict[str, float] = {}
    messages = payload_bytes = 0

    def take(_c: object, _u: object, message: paho.MQTTMessage) -> None:
        nonlocal messages, payload_bytes
        messages, payload_bytes = messages + 1, len(message.payload)
        received_s.setdefault(dict(vars(message.properties)["UserProperty"])["id"], time.monotonic())
        count.value = len(received_s)

    def subscribed(*_: object) -> None:
        count.value = 0

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message, client.on_subscribe = take, subscribed
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("heatline/+/result/+", qos=1)
    ended.wait()
    client.disconnect()
    client.loop_stop()
    sender.send(_AtSubscriber(received_s, messages, payload_bytes))


@contextmanager
def _broker(folder: Path) -> Iterator[int]:
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        raise BenchError("mosquitto is not installed: apt-get install mosquitto")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        file = folder / "mosquitto.conf"
        file.write_text(f"listener {port} 127.0.0.1\nuser root\nallow_anonymous true\n")
        with _process(["nice", "-n", str(NICE), mosquitto, "-c", str(file)], folder / "mosquitto.log"):
            _wait(lambda: "running" in (folder / "mosquitto.log").read_text(), "mosquitto runs")
            yield port


@contextmanager
def _process(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait(condition: Callable[[], bool], description: str) -> None:
    give_up_s = time.monotonic() + WITHIN_SECONDS
    while not condition():
        if time.monotonic() > give_up_s:
            raise BenchError(f"not within {WITHIN_SECONDS:.0f} s: {description}")
        time.sleep(0.005)


def _defect(seq: int, journal_id: str) -> VerdictEvent:
    return VerdictEvent(
        boot_id="0" * 32, seq=seq, camera="top", frame_id=seq, frame_number=seq, part_id=f"P-{seq}",
        times=Times(captured_at_ns=time.time_ns(), captured_monotonic_ns=time.monotonic_ns()),
        frame_hw=(2048, 2448), verdict="DEFECT", frame_score=3.2, score_threshold=1.0, evidence_threshold=2.0,
        precision="f32", bundle=BundleName(name="boards", version="1", digest="0" * 64),
        regions=[Region((0, 0, 64, 64), OUTLINE, 4096, (32, 32), 40.0 + number) for number in range(2)],
        latency_ms=41.7, acting=True, journal_id=journal_id, previous_seq=max(0, seq - 1),
    )  # fmt: skip


def _latency(seconds: list[float]) -> Latency:
    ordered = sorted(1000 * each for each in seconds)
    return Latency(
        median=round(ordered[len(ordered) // 2], 2),
        p99=round(ordered[math.ceil(0.99 * len(ordered)) - 1], 2),
        highest=round(ordered[-1], 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m heatline.bench.mqtt_bridge", description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second [%(default)s]")
    parser.add_argument("--seconds", type=float, default=30.0, help="[%(default)s]")
    parser.add_argument("--backlog", type=int, default=10_000, help="events of the backlog [%(default)s]")
    parser.add_argument("--beside", type=Path, metavar="BUNDLE", help="a line inspects with it meanwhile, at 80 %%")
    parser.add_argument("--out", type=Path, help="file to write the result to")
    arguments = parser.parse_args()
    now = machine()
    try:
        claim(arguments.out)
        found = measure_bridge(arguments.rate, arguments.seconds, arguments.backlog, arguments.beside)
        report = new_report("bridge-mqtt", now, found)
        if arguments.out is not None:
            keep(arguments.out, report)
    except BenchError as error:
        sys.exit(f"mqtt_bridge: {error}")
    print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())


if __name__ == "__main__":
    main()
