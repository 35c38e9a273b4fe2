"""Measures the OPC UA bridge: `python -m heatline.bench.opcua_bridge --out FILE`.

A journal is served in this process, the bridge runs in its own, and so does a client with a secured connection that
subscribes to the results' events. All three share the machine.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import msgspec

from heatline.bench.inspection_load import NICE, InspectionLoad, inspecting
from heatline.bench.journalled_line import JournalledLine, PlainConsumer, wait_until_listening
from heatline.bench.machine import machine
from heatline.bench.processes import cpu_s
from heatline.bench.result_file import claim, keep, new_report
from heatline.bench.spread import Latency
from heatline.edge.errors import BenchError
from heatline.edge.util.extras import require_extra

WITHIN_SECONDS = 60.0
COMMIT_EVERY_SECONDS = 0.005
"""The journal takes what is due in one commit, as a line does with what it has at hand."""
PUBLISHING_MS = 20
"""The shortest interval that the bridge grants."""
CLIENT = "bench"
LINE_FILE = """
bundle = "b"
[[cameras]]
kind = "folder"
name = "top"
path = "."
[events]
bind = "ipc://{folder}/events"
[journal]
bind = "ipc://{folder}/follow"
[opcua]
start = "first"
acknowledge = "offered"
listen = "127.0.0.1:{port}"
folder = "{folder}/opcua"
"""


class OpcuaResult(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the bridge at one rate."""

    results: int
    wanted_per_s: float
    reached_per_s: float
    """From the first result in the journal to the last at the client."""
    latency_ms: Latency
    """From the commit of a result in the journal to the client's handler."""
    consumer_ms: Latency
    """From the commit to a durable consumer without bridge, server and client."""
    added_ms: Latency
    """The difference of the two, result by result."""
    publishing_ms: int
    bridge_cores: float
    """Processor time of the bridge, as a share of one core."""
    inspection: InspectionLoad | None = None
    """Of a line that inspected meanwhile. None: there was none."""


def measure_bridge(per_s: float, seconds: float, beside: Path | None = None) -> OpcuaResult:
    """Journal results at a rate, and time each until a subscribed client has it.

    Args:
        beside: bundle of a line that inspects meanwhile, at 80 % of its highest rate.
    Raises:
        BenchError: a result is missing, comes twice or out of order.
        MissingExtraError: the extra `opcua` is not installed.
    """
    require_extra("opcua")
    count = max(1, round(per_s * seconds))
    with contextlib.ExitStack() as open_:
        load = None if beside is None else open_.enter_context(inspecting(beside))
        line, port, folder, bridge_pid = open_.enter_context(_bridged())
        consumer = open_.enter_context(contextlib.closing(PlainConsumer(line.address)))
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        client = multiprocessing.get_context("spawn").Process(target=_receive, args=(port, folder, count, theirs))
        client.start()
        try:
            _expect(ours, "subscribed")
            if load is not None:
                load.begin()
            committed = line.committed_s
            cpu_before_s, start_s = cpu_s(bridge_pid), time.monotonic()
            while len(committed) < count:
                due = min(count, 1 + int((time.monotonic() - start_s) * per_s)) - len(committed)
                if due:
                    line.add(due)
                time.sleep(COMMIT_EVERY_SECONDS)
            received: list[tuple[str, float]] = _expect(ours)
            cpu_used_s = cpu_s(bridge_pid) - cpu_before_s
            inspection = None if load is None else load.measured()
        finally:
            client.terminate()
            client.join()
        latencies = latencies_ms(committed, received)
        plain = [1000 * (at_s - committed[each]) for each, at_s in consumer.wait_for(committed, WITHIN_SECONDS)]
    took_s = received[-1][1] - start_s
    return OpcuaResult(
        results=count,
        wanted_per_s=per_s,
        reached_per_s=count / took_s,
        latency_ms=Latency.of(latencies),
        consumer_ms=Latency.of(plain),
        added_ms=Latency.of([one - other for one, other in zip(latencies, plain, strict=True)]),
        publishing_ms=PUBLISHING_MS,
        bridge_cores=cpu_used_s / took_s,
        inspection=inspection,
    )


def latencies_ms(committed: Mapping[str, float], received: Sequence[tuple[str, float]]) -> list[float]:
    """Return the time that each result took.

    Args:
        committed: when each result was in the journal, by its id, in order.
        received: ids and times at the client.
    Raises:
        BenchError: a result is missing, comes twice or out of order.
    """
    if [each for each, _ in received] != list(committed):
        raise BenchError(
            f"the client received {len(received)} results of {len(committed)}, or in another order; report this bug"
        )
    return [1000 * (at_s - committed[each]) for each, at_s in received]


def _expect(pipe: Connection, what: str | None = None) -> Any:
    if not pipe.poll(WITHIN_SECONDS):
        raise BenchError(f"the client did not receive all results within {WITHIN_SECONDS:.0f} s")
    came = pipe.recv()
    if what is not None and came != what:
        raise BenchError(f"the client ended: {came}")
    return came


def _receive(port: int, folder: Path, count: int, pipe: Connection) -> None:
    """Subscribe in a process of its own; send the ids and times of the results when all have come."""
    from asyncua import Client, ua
    from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

    os.nice(NICE)

    async def run() -> None:
        received: list[tuple[str, float]] = []
        complete = asyncio.Event()

        class Handler:
            def event_notification(self, event: Any) -> None:
                received.append((event.ResultId, time.monotonic()))
                if len(received) == count:
                    complete.set()

        client = Client(f"opc.tcp://127.0.0.1:{port}", timeout=WITHIN_SECONDS)
        client.application_uri = f"urn:{CLIENT}"
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            certificate=str(folder / "client.der"),
            private_key=str(folder / "client.pem"),
            server_certificate=str(folder / "opcua" / "server.der"),
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )
        async with client:
            subscription = await client.create_subscription(PUBLISHING_MS, Handler())
            root = client.get_node("ns=2;s=VisionSystem")
            await subscription.subscribe_events(root, client.get_node("ns=2;s=ResultReadyEventType"), queuesize=1000)
            pipe.send("subscribed")
            await complete.wait()
            pipe.send(received)

    asyncio.run(run())


@contextlib.contextmanager
def _bridged() -> Iterator[tuple[JournalledLine, int, Path, int]]:
    with tempfile.TemporaryDirectory(prefix="heatline-bench-") as name, socket.socket() as holder:
        folder = Path(name)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))  # reserves the port: it does not listen
        port = holder.getsockname()[1]
        file = folder / "line1.toml"
        file.write_text(LINE_FILE.format(folder=folder, port=port))
        _write_identity(folder)
        with contextlib.closing(JournalledLine(folder)) as line:
            command = [
                "nice",
                "-n",
                str(NICE),
                sys.executable,
                "-m",
                "heatline.edge.cli.main",
                "bridge",
                "opcua",
                str(file),
            ]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                wait_until_listening(port, "opcua", WITHIN_SECONDS)
                yield line, port, folder, process.pid
            finally:
                process.kill()
                process.wait()


def _write_identity(folder: Path) -> None:
    """Write a client's key and certificate, and allow it."""
    from asyncua.crypto.cert_gen import (
        dump_private_key_as_pem,
        generate_private_key,
        generate_self_signed_app_certificate,
    )
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key, name = generate_private_key(), x509.UniformResourceIdentifier(f"urn:{CLIENT}")
    made = generate_self_signed_app_certificate(key, CLIENT, {}, [name], [ExtendedKeyUsageOID.CLIENT_AUTH])
    allowed = folder / "opcua" / "allowed" / "read"
    allowed.mkdir(parents=True)
    for path in (folder / "client.der", allowed / "client.der"):
        path.write_bytes(made.public_bytes(Encoding.DER))
    (folder / "client.pem").write_bytes(dump_private_key_as_pem(key))


@click.command(epilog="Example: python -m heatline.bench.opcua_bridge --out bench/results/bridges/opcua.json")
@click.option("--rate", "per_s", type=click.FloatRange(1, 10_000), default=500.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01, 3600), default=10.0, show_default=True)
@click.option("--beside", type=click.Path(path_type=Path), help="Bundle of a line that inspects meanwhile, at 80 %.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the result, as JSON.")
def main(per_s: float, seconds: float, beside: Path | None, out: Path | None) -> None:
    """Measure the latency that the OPC UA bridge adds at a rate of results."""
    claim(out)
    before = machine()
    found = measure_bridge(per_s, seconds, beside)
    click.echo(
        f"{found.reached_per_s:.0f} results/s of {per_s:.0f}; journal to client {found.latency_ms}; "
        f"added {found.added_ms}; {found.bridge_cores:.2f} cores"
    )
    if out is not None:
        keep(out, new_report("opcua bridge", before, found))


if __name__ == "__main__":
    main()
