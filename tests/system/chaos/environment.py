"""The environment of a run: the service on a small disk, its clients behind a proxy, and a reference subscriber."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from heatline.bench.watched_line import ALL_GOOD, Keys, line_process, write_line_file
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.reader import JournalReader
from tests.system.chaos.clients import Client, ClientPlan
from tests.system.chaos.expected import Stored
from tests.system.chaos.reference import ReferenceSubscriber
from tests.system.chaos.tcp_proxy import Link, Proxy

LEAST_DISK_MIB = 64
BYTES_PER_EVENT = 4000
"""On the disk, with a margin."""
PORTS = 20_000, 30_000
"""Below the ports that the kernel assigns: a client that connects to a stopped server could get the server's port as
its own, and connect to itself."""
PIECES = bytes(1 << 20), bytes(4096)
"""Pieces that fill a disk to its last block."""


class SmallDisk:
    """A file system in memory, mounted at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Write until the disk has no room."""
        for piece in PIECES:
            with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(piece)

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


class Environment:
    """All processes of a run, for the duration of the `with` block.

    Args:
        rate_fps: of all cameras together.
        seconds: duration of the faults.
        report_line: takes a line of progress.
    """

    def __init__(
        self,
        bundle: Bundle,
        clients: Sequence[ClientPlan],
        rate_fps: float,
        seconds: float,
        report_line: Callable[[str], None],
    ) -> None:
        self.seconds = seconds
        with ExitStack() as begun:
            self._folder = Path(begun.enter_context(tempfile.TemporaryDirectory(prefix="heatline-chaos-")))
            disk_mib = max(LEAST_DISK_MIB, round(2 * rate_fps * seconds * BYTES_PER_EVENT / 2**20))
            disk = self._folder / "disk"
            disk.mkdir()
            self.disk = _mounted(disk, disk_mib, begun, report_line)
            self.state = disk / "state"
            self.state.mkdir()
            ports = {"events": _free_port(), "journal": _free_port()}
            proxy = begun.enter_context(Proxy())
            self.hurry = self._folder / "hurry"
            self.clients: dict[str, Client] = {}
            self.links: dict[str, Link] = {}
            for plan in clients:
                links = {socket: proxy.link("127.0.0.1", ports[socket]) for socket in plan.sockets}
                self.links |= {f"{plan.name} {socket}": link for socket, link in links.items()}
                self.clients[plan.name] = client = Client(plan, links, self._folder, self.hurry)
                begun.enter_context(client.process)
            self.reference = begun.enter_context(ReferenceSubscriber(f"tcp://127.0.0.1:{ports['events']}"))
            tables: dict[str, Keys] = {
                "engine": {"precision": "f32"},
                "thresholds": ALL_GOOD,
                "events": {"bind": f"tcp://127.0.0.1:{ports['events']}", "heatmaps": "never"},
                "journal": {"bind": f"tcp://127.0.0.1:{ports['journal']}", "retain_mib": disk_mib // 2},
            }
            camera: Keys = {"kind": "pattern", "draw_size": [64, 48], "rate_fps": rate_fps / 2, "waiting_frames": 16}
            self.line = begun.enter_context(self._line("line", bundle, {**camera, "trigger": "free"}, tables))
            self.idle_line = begun.enter_context(self._line("idle", bundle, {**camera, "trigger": "software"}, tables))
            """The same line with cameras that wait for a trigger, and never get one."""
            for client in self.clients.values():
                client.process.start()
            self._at_end = begun.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    def _line(self, name: str, bundle: Bundle, camera: Keys, tables: dict[str, Keys]) -> WatchedProcess:
        folder = self._folder / name
        folder.mkdir()
        config = folder / "line.toml"
        cameras = [{**camera, "name": side} for side in ("left", "right")]
        # Without a socket for commands, no camera may wait for a trigger.
        write_line_file(config, bundle.path, cameras, {**tables, "commands": {"bind": f"ipc://{folder}/commands"}})
        env = {"STATE_DIRECTORY": str(self.state), "OPENCV_LOG_LEVEL": "SILENT"}
        return line_process(config, self._folder / f"{name}.log", env=env)

    def keep(self, folder: Path) -> None:
        """Copy all written files."""
        shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("filler", "commands"), dirs_exist_ok=True)

    def journals(self) -> dict[str, list[Stored]]:
        """Read all of the line's journals, in the order of their begin."""
        found: dict[str, list[Stored]] = {}
        for path in [*self.state.glob("journal.db.damaged"), self.state / "journal.db"]:
            with JournalReader.open_file(path) as journal:
                records, through, last = list[Stored](), 0, journal.range()[1]
                while through < last:
                    page = journal.read(through, through_seq=last)
                    records += [Stored(each.seq, each.topic, each.header) for each in page.records]
                    through = page.through_seq
                found[journal.journal_id] = records
        return found


def _mounted(place: Path, mib: int, begun: ExitStack, report_line: Callable[[str], None]) -> SmallDisk | None:
    """Mount a disk until `begun` ends; report and return None if that is not possible."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "heatline-chaos", str(place)]
    try:
        subprocess.run(mount, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        report_line(f"NO DISK CAN BE MOUNTED HERE, SO NONE IS FILLED: {why}")
        return None
    assert os.path.ismount(place)
    begun.callback(subprocess.run, ["umount", "--lazy", str(place)], capture_output=True, check=False)
    return SmallDisk(place)


def _free_port() -> int:
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
