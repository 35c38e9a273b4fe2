"""A small disk that can be filled: a file system in memory, mounted for a run."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

PIECES = bytes(1 << 20), bytes(4096)


class SmallDisk:
    """Mounted at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Write until there is no room, also what has become free since it was filled last."""
        for piece in PIECES:
            with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(piece)

    def free(self) -> None:
        """Take away what filled it."""
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(place: Path, mib: int, say: Callable[[str], None]) -> Iterator[SmallDisk | None]:
    """A disk of so many MiB; None where none can be mounted, which is said.

    Args:
        place: where it is mounted; made where it is not there.
    """
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "heatline-chaos", str(place)]
    try:
        done = subprocess.run(mount, text=True, capture_output=True, check=False)
        why = done.stderr.strip() if done.returncode else None
    except OSError as error:
        why = str(error)
    if why is not None:
        say(f"NO DISK CAN BE MOUNTED HERE, SO NONE IS FILLED: {why}")
        yield None
        return
    try:
        assert os.path.ismount(place)
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
