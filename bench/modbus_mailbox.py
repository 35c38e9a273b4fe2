"""Measures the hand-shake of the Modbus bridge: `python -m heatline.bench.modbus_mailbox --out FILE`.

A journal is served in this process, the bridge runs in its own, and a PLC, here pymodbus' client, takes every result
and acknowledges it. Journal, bridge and PLC share the machine: results over a network take its round trips in addition.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from heatline.bench.journalled_line import JournalledLine, wait_until_listening
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, keep, new_report
from heatline.bench.spread import Latency
from heatline.edge.bridge.modbus.registers import COMMANDS, MAILBOX
from heatline.edge.errors import BenchError
from heatline.edge.util.extras import require_extra

WITHIN_SECONDS = 30.0
WORDS = MAILBOX.end - MAILBOX.address
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
[modbus]
start = "first"
listen = "127.0.0.1:{port}"
"""


class MailboxResult(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the hand-shake."""

    results: int
    """Results of each rate."""
    per_second_two_requests: float
    """Results per second of a PLC that writes the acknowledgement and reads the mailbox in a request each."""
    per_second_one_request: float
    """With function 23, which writes and then reads."""
    empty_reads: dict[str, int]
    """Reads of the mailbox that came before the next result."""
    latency_ms: Latency
    """From the commit of a result in the journal to the reply that shows it, of a PLC that reads without a pause."""
    request_ms: Latency
    """One read of the mailbox."""


class _Plc:
    """Takes results, in order, each once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._taken_seq = 0
        self._number = [0, 0]
        self.empty_reads = 0

    def read(self) -> bool:
        """Read the mailbox; return whether it shows the next result."""
        return self._shows_next(self._client.read_input_registers(MAILBOX.address, count=WORDS, device_id=1))

    def acknowledge(self) -> None:
        self._client.write_registers(COMMANDS.addresses["acknowledge"], self._number, device_id=1)

    def acknowledge_and_read(self) -> bool:
        """Do both in one request."""
        reply = self._client.readwrite_registers(
            read_address=MAILBOX.address,
            read_count=WORDS,
            write_address=COMMANDS.addresses["acknowledge"],
            values=self._number,
            device_id=1,
        )
        return self._shows_next(reply)

    def _shows_next(self, reply: Any) -> bool:
        words = {name: reply.registers[at - MAILBOX.address] for name, at in MAILBOX.addresses.items()}
        if words["kind"] == 0:
            self.empty_reads += 1
            return False
        at = MAILBOX.addresses["number"] - MAILBOX.address
        self._number = reply.registers[at : at + 2]
        seq = reply.registers[MAILBOX.addresses["seq"] + 3 - MAILBOX.address]  # its lowest word
        if seq != (self._taken_seq + 1) % 65536 or words["verdict"] != 1 or words["kind"] != 1:
            raise BenchError(f"the mailbox shows {words} after result {self._taken_seq}; report this as a bug")
        self._taken_seq += 1
        return True


def measure_mailbox(results: int, latencies: int) -> MailboxResult:
    """Measure the rate of results through the hand-shake, and the time that one takes.

    Raises:
        BenchError: a result is missing, or comes twice.
        MissingExtraError: the extra `bench` is not installed.
    """
    require_extra("bench")
    rates, empty = {}, {}
    with _bridged() as (line, plc):
        for name in ("two", "one"):
            before = plc.empty_reads
            line.add(results)
            while not plc.read():
                pass
            start_s = time.perf_counter()
            for _ in range(results - 1):
                if name == "two":
                    plc.acknowledge()
                    while not plc.read():
                        pass
                else:
                    while not plc.acknowledge_and_read():
                        pass
            rates[name] = (results - 1) / (time.perf_counter() - start_s)
            empty[name] = plc.empty_reads - before
            plc.acknowledge()
        shown_ms, request_ms = [], []
        for _ in range(latencies):
            line.add(1)
            start_s = asked_s = time.perf_counter()
            while not plc.read():
                asked_s = time.perf_counter()
            now_s = time.perf_counter()
            shown_ms.append(1000 * (now_s - start_s))
            request_ms.append(1000 * (now_s - asked_s))
            plc.acknowledge()
    return MailboxResult(
        results=results,
        per_second_two_requests=rates["two"],
        per_second_one_request=rates["one"],
        empty_reads=empty,
        latency_ms=Latency.of(shown_ms),
        request_ms=Latency.of(request_ms),
    )


@contextlib.contextmanager
def _bridged() -> Iterator[tuple[JournalledLine, _Plc]]:
    from pymodbus.client import ModbusTcpClient

    with tempfile.TemporaryDirectory(prefix="heatline-bench-") as name, socket.socket() as holder:
        folder = Path(name)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))  # reserves the port: it does not listen
        port = holder.getsockname()[1]
        file = folder / "line1.toml"
        file.write_text(LINE_FILE.format(folder=folder, port=port))
        with contextlib.closing(JournalledLine(folder)) as line:
            command = [sys.executable, "-m", "heatline.edge.cli.main", "bridge", "modbus", str(file)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            client: Any = ModbusTcpClient("127.0.0.1", port=port, timeout=WITHIN_SECONDS, retries=0)
            try:
                wait_until_listening(port, "modbus", WITHIN_SECONDS)
                client.connect()
                yield line, _Plc(client)
            finally:
                client.close()
                process.kill()
                process.wait()


@click.command(epilog="Example: python -m heatline.bench.modbus_mailbox --out bench/results/bridges/modbus.json")
@click.option(
    "--results", type=click.IntRange(2, 60_000), default=2000, show_default=True, help="Results of each rate."
)
@click.option("--latencies", type=click.IntRange(1), default=1000, show_default=True, help="Results one by one.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the result, as JSON.")
def main(results: int, latencies: int, out: Path | None) -> None:
    """Measure how many results a PLC can take from the Modbus bridge, and how long one takes."""
    claim(out)
    before = machine()
    found = measure_mailbox(results, latencies)
    click.echo(
        f"{found.per_second_two_requests:.0f} results/s in two requests, {found.per_second_one_request:.0f} in one; "
        f"journal to PLC {found.latency_ms}; a request {found.request_ms}"
    )
    if out is not None:
        keep(out, new_report("modbus mailbox", before, found))


if __name__ == "__main__":
    main()
