"""A line PC to install on: this machine in its own namespaces, with an empty /opt, without network, pip and ensurepip.

Only the line PC sees what is written to /opt, /etc, /usr/local, /var/lib and /mnt, and its end deletes that.
"""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

SET_UP = r"""
set -eu
mount -t tmpfs -o mode=755 line-pc /mnt
for each in /etc /usr/local /var/lib; do
  mkdir -p "/mnt/upper$each" "/mnt/work$each"
  mount -t overlay line-pc -o "lowerdir=$each,upperdir=/mnt/upper$each,workdir=/mnt/work$each" "$each"
done
if [ -n "$1" ]; then
  mkdir -p /mnt/upper/opt /mnt/work/opt
  mount -t overlay line-pc -o "lowerdir=$1,upperdir=/mnt/upper/opt,workdir=/mnt/work/opt" /opt
else
  mount -t tmpfs -o mode=755 line-pc /opt
fi
# As on a new Debian: python3 is installed without python3-venv and pip.
for each in /usr/lib/python3*/ensurepip /usr/lib/python3/dist-packages/pip; do
  [ ! -d "$each" ] || mount -t tmpfs -o mode=755 line-pc "$each"
done
ip link set lo up
echo ready
cat >/dev/null # until our standard input is closed
"""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""An environment of Python that is active here must not be found on the line PC."""


class LinePc:
    """A line PC for the duration of a `with` block, whose end deletes all its changes.

    Args:
        opt: a folder that /opt shows at first, such as a copy of another line PC's; it is not changed.
    """

    def __init__(self, opt: Path | None = None) -> None:
        self._opt = opt

    def __enter__(self) -> Self:
        self._held = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", SET_UP, "sh", self._opt or ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._held.stdout is not None
        assert self._held.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._held.stdin is not None
        assert self._held.stdout is not None
        self._held.stdin.close()
        self._held.wait(30)
        self._held.stdout.close()

    def words(self, *command: str | Path) -> list[str]:
        """Return the command line that runs a command on the line PC."""
        return ["nsenter", f"--target={self._held.pid}", "--mount", "--net", "--", *map(str, command)]

    def run(self, *command: str | Path, stdin: Path = Path("/dev/null")) -> subprocess.CompletedProcess[str]:
        """Run a command on the line PC; return its result, also after a failure."""
        with stdin.open() as file:
            return subprocess.run(
                self.words(*command),
                env=ENVIRONMENT,
                stdin=file,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )

    def sh(self, script: str) -> str:
        """Run a shell script that must succeed; return its output."""
        result = self.run("sh", "-euc", script)
        assert result.returncode == 0, result.stderr + result.stdout
        return result.stdout.strip()

    def install(self, package: Path) -> str:
        """Install a package; return the output."""
        return self.sh(f"sh '{package}/install.sh'")

    def write(self, path: str, text: str) -> None:
        """Write a file, or replace it."""
        subprocess.run(self.words("tee", path), input=text, stdout=subprocess.DEVNULL, text=True, check=True)
