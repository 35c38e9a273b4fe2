"""Description of the machine, the code and the time of a measurement, which every result holds."""

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
KIND = ("processor", "extensions", "cores", "governor", "cpu_quota")
"""Properties that decide whether figures may be compared: machines that agree in all of them count as one."""
CODE = Path(__file__).resolve().parents[1]
CPUS = Path("/sys/devices/system/cpu")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """State of the machine when a bench began."""

    processor: str
    """Its name and its maker's numbers, as the name may be vague in a virtual machine."""
    extensions: list[str]
    """Flags that decide how fast it infers."""
    governor: str | None
    """Frequency governor of the cores that may be used; None: unknown, as in most virtual machines."""
    cores: int
    """Number of cores that may be used."""
    cpu_quota: float | None
    """Processor time that its control group grants, in cores, as in a container; None: no limit."""
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
    at_utc: str
    """As 2026-11-26T06:32:10Z."""


def machine() -> dict[str, Any]:
    """Describe this machine by the fields of `Machine`. Call it before the measurement: the load is that of others."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    cpuinfo = {name.strip(): value.strip() for name, _, value in lines}  # the cores of a machine are alike
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features", "")).split()
    cores = sorted(os.sched_getaffinity(0))
    governors = [CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor" for core in cores]
    return msgspec.structs.asdict(
        Machine(
            processor=processor(),
            extensions=[name for name in EXTENSIONS if name in flags],
            governor=", ".join(sorted({file.read_text().strip() for file in governors if file.is_file()})) or None,
            cores=len(cores),
            cpu_quota=_cpu_quota(),
            memory_mb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
            load=[round(one, 2) for one in os.getloadavg()],
            kernel=platform.release(),
            is_virtual="hypervisor" in flags,
            python=platform.python_version(),
            versions=_versions(),
            commit=commit(),
            at_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
    )


def machine_kind(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides whether figures of this machine may be compared with those of another."""
    return {name: machine.get(name) for name in KIND}


def commit() -> str | None:
    """Return the commit of the code; None where it is not a checkout. `-dirty` where files were changed since."""
    if not (CODE / ".git").exists():  # installed, perhaps in a checkout of another project
        return None
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, cwd=CODE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def file_system(path: Path) -> str:
    """Return the kind of the file system of a folder, on which the duration of a sync depends."""
    best, kind, folder = "", "unknown", path.resolve()
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _versions() -> dict[str, str]:
    """Read the versions of installed libraries without importing them."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu_quota() -> float | None:
    with suppress(OSError, ValueError):  # there is no control group, or no limit ("max")
        quota, period = map(int, CPU_MAX.read_text().split())
        return quota / period
    return None
