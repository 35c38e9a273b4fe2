"""Line PCs without a network: this machine in namespaces of its own, with an empty /opt, no pip and no ensurepip; and a
container with a real systemd, which runs `boot/drive.py`. What is written there is deleted at the end.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from heatline.edge.bundle import Bundle, sign_bundle
from heatline.edge.bundle.signature import make_key, read_private_key
from tests.edge.lines import small_frames, write_pictures
from tests.small_bundle import bundle_in, small_bundle

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
mount --bind /usr/bin/true /usr/bin/sync # a PC that is deleted need not wait for the disk of others
ip link set lo up
echo ready
cat >/dev/null # until our standard input is closed
"""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""An environment of Python that is active here must not be found on the line PC."""


class LinePc:
    """A line PC for the duration of a `with` block, whose end deletes all its changes. `opt`: a folder that /opt shows
    at first, such as a copy of another line PC's; it is not changed."""

    def __init__(self, opt: Path | None = None) -> None:
        self._opt = opt

    def __enter__(self) -> Self:
        self._held = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", SET_UP, "sh", self._opt or ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._held.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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


ROOT = Path(__file__).parents[2]
LINE_PCS_PYTHON = "/usr/bin/python3"
NEXT_VERSION = "99.0.0"


def build_package(out: Path) -> Path:
    """Build the package as `make package` does, but with the wheels in `out` if they are all that is needed."""
    return Path(_package().build(LINE_PCS_PYTHON, out, newest=False))


def build_next_package(package: Path, into: Path) -> Path:
    """Make the package of a later version, whose heatline takes all libraries from the installed former version."""
    made = Path(shutil.copytree(package, into / "package", ignore=shutil.ignore_patterns("wheels")))
    (made / "wheels").mkdir()
    with (made / "share" / "heatline@.service").open("a") as unit:
        unit.write("# the later unit\n")
    target = dict(line.split("=", 1) for line in (package / "target").read_text().splitlines())
    version = target["version"]
    (pip,), (wheel,) = (list((package / "wheels").glob(f"{name}-*.whl")) for name in ("pip", "heatline"))
    shutil.copy(pip, made / "wheels")
    former, later = f"heatline-{version}", f"heatline-{NEXT_VERSION}"
    with (
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(made / "wheels" / wheel.name.replace(former, later), "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name).replace(former.encode(), later.encode())
            if name.endswith(("/METADATA", "heatline/edge/__init__.py")):
                data = data.replace(version.encode(), NEXT_VERSION.encode())
            new.writestr(name.replace(former, later), re.sub(rb"(?m)^Requires-Dist: .*\n", b"", data))
        new.writestr("former.pth", f"/opt/heatline/{version}/lib/python{target['python']}/site-packages\n")
    _package().seal(made, python=target["python"], machine=target["machine"])
    return made


def _package() -> ModuleType:
    """Import the script `systemd/package.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("systemd_package", ROOT / "systemd" / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent / "boot"
UNITS = "boot.target", "boot-drive.service"
BOOTED_AND_DRIVEN_WITHIN_SECONDS = 1200

IN_A_MOUNT_NAMESPACE = """
set -e
mount --make-rprivate /
mount --bind / "$1/root"  # nspawn takes no / itself
mount -t tmpfs -o mode=755 opt "$1/opt"
mkdir "$1/opt/upper" "$1/opt/work"
mount -t overlay -o "lowerdir=$2,upperdir=$1/opt/upper,workdir=$1/opt/work" opt "$1/opt"
shift 2
exec "$@"
"""


@dataclass(frozen=True)
class Boot:
    """The recorded results of one boot."""

    steps: Mapping[str, Mapping[str, Any]]
    """Result of each step of the driver, by its name."""
    events: list[dict[str, Any]]
    """Headers of all events that a subscriber received, in the order of receipt."""
    log: list[str]
    """One line per step, to be printed."""

    def result_of(self, step: str) -> Mapping[str, Any]:
        """Return the result of a step; fail if the step was not run or raised an error."""
        assert step in self.steps, f"step {step} was not run, because an earlier step failed: {self.log[-1]}"
        result = self.steps[step]
        assert "failed" not in result, result["failed"]
        return result

    def events_in(self, step: str) -> list[dict[str, Any]]:
        """Return the events that were received during a step."""
        begin, end = self.result_of(step)["events"]
        return self.events[begin:end]

    def verdicts_in(self, step: str) -> list[dict[str, Any]]:
        return [event for event in self.events_in(step) if event["type"] == "verdict"]

    def runs(self) -> list[list[dict[str, Any]]]:
        """Return all events in order, one list for each run of the service."""
        return [list(run) for _, run in groupby(self.events, key=lambda event: event["boot_id"])]


def boot(folder: Path, opt: Path, binds: Mapping[str, Path], steps: Collection[str]) -> Boot:
    """Boot the container, run the driver, and switch the container off. `folder`: a new folder; the driver writes to
    its subfolder `out`. `opt`: a folder that /opt shows at first, such as a copy of another line PC's; it is not
    changed. `binds`: paths of this machine that the container sees read-only, by their path in the container. `steps`:
    those that the driver runs."""
    out = folder / "out"
    for name in ("root", "opt", "out"):
        (folder / name).mkdir(parents=True)
    (out / "wanted.json").write_text(json.dumps(sorted(steps)))
    no_sync = {"/usr/bin/sync": Path("/usr/bin/true")}  # a container that is deleted need not wait for the disk
    units = {f"/etc/systemd/system/{unit}": HERE / unit for unit in UNITS}
    mounted = {"/boot-test": HERE, **no_sync, **units, **binds}
    nspawn = [
        "systemd-nspawn", "--quiet", "--directory", folder / "root", "--volatile=overlay",
        "--machine", f"heatline-{os.getpid()}", "--register=no", "--keep-unit", "--link-journal=no",
        "--private-network", "--bind", f"{folder / 'opt'}:/opt",
        "--bind", f"{out}:/out", *(f"--bind-ro={here}:{there}" for there, here in mounted.items()),
        "--boot", "systemd.unit=boot.target",
    ]  # fmt: skip
    with (out / "console.txt").open("wb") as console:
        subprocess.run(
            # Each process ends with its parent, so the container ends with the test.
            ["setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=5", str(BOOTED_AND_DRIVEN_WITHIN_SECONDS),
             "setpriv", "--pdeathsig", "KILL",
             "unshare", "--mount", "sh", "-c", IN_A_MOUNT_NAMESPACE, "sh", folder, opt, *nspawn],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, check=False,
        )  # fmt: skip
    return _read_boot(out)


def _read_boot(out: Path) -> Boot:
    steps, received, log, console = (out / name for name in ("steps.json", "events.jsonl", "log.txt", "console.txt"))
    if not steps.exists():
        raise AssertionError(f"the container ended before the first step: {console.read_text()[-5000:]}")
    events = [json.loads(line) for line in received.read_text().splitlines()] if received.exists() else []
    return Boot(json.loads(steps.read_text()), events, log.read_text().splitlines())


LINE = """
bundle = "boards.bundle"

[[cameras]]
kind = "pattern"
name = "top"
draw_size = [224, 224]
rate_fps = 2.0
waiting_frames = 32

[[cameras]]
kind = "folder"
name = "boards"
path = "/srv/pictures"
rate_fps = 2.0
loop = true
waiting_frames = 32

[events]
bind = "tcp://127.0.0.1:5556"
wait_for_subscriber_s = 30

[commands]
bind = "tcp://127.0.0.1:5557"

[thresholds]
check_plausibility = false

[evidence]
good_every = 3

[web]

[journal]
bind = "tcp://127.0.0.1:5558"

[mqtt]
broker = "mqtt://127.0.0.1:1883"

[opcua]
listen = "127.0.0.1:4840"
unprotected = true

[modbus]
listen = "127.0.0.1:1502"
"""


@dataclass(frozen=True)
class Stick:
    path: Path
    boards: Bundle
    better: Bundle


def write_stick(path: Path) -> Stick:
    """Write the stick's files to a new folder."""
    path.mkdir()
    make_key(path / "maker.key")
    key = read_private_key(path / "maker.key")
    etc = path / "etc"
    boards = sign_bundle(small_bundle(etc / "boards.bundle"), key)
    better = sign_bundle(bundle_in(etc / "better.bundle", ["f32", "int8"]), key)
    broken = shutil.copytree(better.path, etc / "broken.bundle") / "model_f32.bin"
    broken.write_bytes(broken.read_bytes()[:-1])  # as a faulty copy
    (etc / "line1.toml").write_text(LINE)
    write_pictures(path / "pictures", small_frames(6, (224, 224)))
    return Stick(path, boards, better)
