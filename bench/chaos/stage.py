"""What runs under faults: the real service, its clients behind a proxy, the disk, and who listens to all of it."""

import contextlib
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.chaos.actor import HEATLINE, Actor
from bench.chaos.cast import Part, Player
from bench.chaos.disk import SmallDisk, small_disk
from bench.chaos.tcp_proxy import Link, Proxy
from bench.chaos.truth import Kept
from bench.chaos.witness import Witness
from bench.watched_line import ALL_GOOD, Keys, write_line_file
from edge.bundle import Bundle
from edge.delivery.journal.reader import JournalReader
from edge.inference import Precision

LEAST_DISK_MIB = 64
BYTES_PER_EVENT = 4000
"""In the journal and what is beside it, with room to spare."""
PORTS = 20_000, 30_000
"""Below those that the kernel hands out: a client that tries to reach a server that is down might get the server's port
for its own otherwise, and be connected with itself."""


class Stage:
    """Everything that runs, between `with` and its end.

    Args:
        rate_fps: of all cameras together.
        seconds: for which faults go on, by a clock that stands still while the line is down.
        say: is told what is done.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        cast: Sequence[Part],
        rate_fps: float,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._bundle, self._precision, self._cast = bundle, precision, cast
        self._rate_fps, self.seconds, self._say = rate_fps, seconds, say
        self._at_end = ExitStack()
        self.disk: SmallDisk | None = None

    def __enter__(self) -> "Stage":
        with ExitStack() as begun:
            self._set(begun)
            self._at_end = begun.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    def _set(self, begun: ExitStack) -> None:
        self._folder = Path(begun.enter_context(tempfile.TemporaryDirectory(prefix="heatline-chaos-")))
        disk_mib = max(LEAST_DISK_MIB, round(2 * self._rate_fps * self.seconds * BYTES_PER_EVENT / 2**20))
        place = self._folder / "disk"
        self.disk = begun.enter_context(small_disk(place, disk_mib, self._say))
        self.state = place / "state"
        self.state.mkdir()
        self._events, self._journal = _free_port(), _free_port()
        proxy = begun.enter_context(Proxy())
        self.hurry = self._folder / "hurry"
        self.players: dict[str, Player] = {}
        self.links: dict[str, Link] = {}
        for part in self._cast:
            ports = {"events": self._events, "journal": self._journal}
            links = {name: proxy.link("127.0.0.1", ports[name]) for name in part.links}
            player = Player(part, links, self._folder, self.hurry)
            self.links |= {f"{part.name} {name}": link for name, link in links.items()}
            self.players[part.name] = player
            begun.enter_context(player.actor)
        self.witness = begun.enter_context(Witness(f"tcp://127.0.0.1:{self._events}"))
        keep_mib = disk_mib // 2
        self.line = begun.enter_context(self._actor("line", "free", keep_mib))
        self.idle_line = begun.enter_context(self._actor("idle", "software", keep_mib))
        for player in self.players.values():
            player.actor.start()

    def _actor(self, name: str, trigger: str, keep_mib: int) -> Actor:
        """The service with two cameras, which run freely or wait for a trigger that never comes."""
        folder = self._folder / name
        folder.mkdir()
        config = folder / "line.toml"
        cameras: list[Keys] = [
            {
                "kind": "pattern",
                "name": camera,
                "draw_size": [64, 48],
                "rate_fps": self._rate_fps / 2,
                "trigger": trigger,
                "waiting_frames": 16,
            }
            for camera in ("left", "right")
        ]
        tables: dict[str, Keys] = {
            "engine": {"precision": self._precision},
            "thresholds": ALL_GOOD,
            "events": {"bind": f"tcp://127.0.0.1:{self._events}", "heatmaps": "never"},
            "commands": {"bind": f"ipc://{folder}/commands"},  # without, nothing may wait for triggers
            "journal": {"bind": f"tcp://127.0.0.1:{self._journal}", "keep_mib": keep_mib},
        }
        write_line_file(config, self._bundle.path, cameras, tables)
        return Actor(
            name,
            [*HEATLINE, "run", str(config)],
            self._folder / f"{name}.log",
            env={"STATE_DIRECTORY": str(self.state), "OPENCV_LOG_LEVEL": "SILENT"},
        )

    def keep(self, folder: Path) -> None:
        """Copy all that was written by anybody."""
        shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("filler", "commands"), dirs_exist_ok=True)

    def journals(self) -> dict[str, list[Kept]]:
        """All that the line's journals hold, in the order in which they were begun."""
        found: dict[str, list[Kept]] = {}
        for path in [*sorted(self.state.glob("journal.db.damaged-*")), self.state / "journal.db"]:
            with JournalReader.open_file(path) as journal:
                records, through, last = list[Kept](), 0, journal.last_seq
                while through < last:
                    page = journal.read(through, through_seq=last)
                    records += [Kept(each.seq, each.topic, each.header) for each in page.records]
                    through = page.through_seq
                found[journal.journal_id] = records
        return found


def _free_port() -> int:
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
