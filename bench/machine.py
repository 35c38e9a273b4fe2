"""Description of the machine, the code and the time of a measurement, which every result holds."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from heatline.edge.util.process import processor

EXTENSIONS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of x86 and ARM that decide how fast a processor infers, and in which precisions."""
LIBRARIES = (
    *("heatline", "openvino", "onnxruntime", "numpy", "opencv-python-headless", "pyzmq", "msgspec"),
    *("torch", "timm", "nncf", "grad-cam"),
)
CODE = Path(__file__).resolve().parents[1]
CPUS = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """State of the machine when a bench began."""

    processor: str
    """Its name and its maker's numbers, as the name may be vague in a virtual machine."""
    extensions: list[str]
    """Flags that decide how fast it infers."""
    flags: str
    """All flags, as the kernel reports them."""
    governor: str | None
    """Frequency governor of the cores that may be used; None: unknown, as in most virtual machines."""
    cores: int
    """Number of cores that may be used."""
    affinity: list[int]
    """Numbers of these cores."""
    cores_in_all: int | None
    memory_mb: int
    load: list[float]
    """Mean number of processes that ran or waited, over 1, 5 and 15 minutes."""
    kernel: str
    is_virtual: bool
    """Whether a hypervisor runs it, which may give the cores to others."""
    python: str
    versions: dict[str, str]
    """Versions of the installed libraries."""
    commit: str | None
    """Commit of the code; None where it is not a checkout. `-dirty` where files were changed since."""
    at_utc: str
    """As 2026-11-26T06:32:10Z."""
    cpu_quota: float | None = None
    """Processor time that its control groups grant, in cores, as in a container; None: no limit."""


class MachineKind(NamedTuple):
    """Properties that decide whether figures may be compared: machines that agree in all of them count as one."""

    processor: str | None
    extensions: tuple[str, ...]
    cores: int | None
    governor: str | None
    cpu_quota: float | None


def machine() -> dict[str, object]:
    """Describe this machine by the fields of `Machine`. Call it before the measurement: the load is that of others."""
    cpuinfo = _cpuinfo()
    flags = cpuinfo.get("flags") or cpuinfo.get("Features", "")
    affinity = sorted(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return msgspec.structs.asdict(
        Machine(
            processor=processor(),
            extensions=[name for name in EXTENSIONS if name in flags.split()],
            flags=flags,
            governor=_governor(affinity),
            cores=len(affinity),
            affinity=affinity,
            cores_in_all=os.cpu_count(),
            memory_mb=round(memory_bytes / 1e6),
            load=[round(one, 2) for one in os.getloadavg()],
            kernel=platform.release(),
            is_virtual="hypervisor" in flags.split(),
            python=platform.python_version(),
            versions=_versions(),
            commit=commit(),
            at_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            cpu_quota=_cpu_quota(),
        )
    )


def without_flags(machine: Mapping[str, object]) -> dict[str, object]:
    """Return what a row of a result holds of its machine: all but the long `flags`, whose essence is `extensions`."""
    return {name: value for name, value in machine.items() if name != "flags"}


def machine_kind(machine: Mapping[str, Any]) -> MachineKind:
    """Return the kind of the machine of a result file, which may hold anything."""
    extensions, cores, quota = machine.get("extensions"), machine.get("cores"), machine.get("cpu_quota")
    return MachineKind(
        _text(machine.get("processor")),
        tuple(map(str, extensions)) if isinstance(extensions, list) else (),
        cores if isinstance(cores, int) else None,
        _text(machine.get("governor")),
        float(quota) if isinstance(quota, int | float) else None,
    )


def commit() -> str | None:
    """Return the commit of the code; None where it is not a checkout. `-dirty` where files were changed since."""
    if not (CODE / ".git").exists():  # installed, perhaps in a checkout of another project
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=CODE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def file_system(path: Path) -> str:
    """Return the kind of the file system of a folder, on which the duration of a sync depends."""
    best, kind, folder = "", "unknown", path.resolve()
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _cpuinfo() -> dict[str, str]:
    """Read what the kernel says of the last core; the cores of a machine are alike."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def _governor(cores: list[int]) -> str | None:
    """Return the governor of these cores; several names where they differ."""
    files = [CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor" for core in cores]
    return ", ".join(sorted({file.read_text().strip() for file in files if file.is_file()})) or None


def _versions() -> dict[str, str]:
    """Read the versions of installed libraries without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu_quota() -> float | None:
    """Return the tightest limit of the control groups around this process, of version 1 or 2, in cores."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return None
    granted = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be that of its host, and of its folders only the top one is here.
        around = [*PurePosixPath(group).relative_to("/").parents, PurePosixPath(group).relative_to("/")]
        for top in {controllers, "cpu"} if controllers else {"", "unified"}:
            granted += [_granted(CGROUPS / top / one) for one in around if ".." not in one.parts]
    return min((one for one in granted if one is not None), default=None)


def _granted(group: Path) -> float | None:
    """Read the limit of one control group, in cores: version 2 has one file, version 1 two."""
    try:
        if (file := group / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
