"""What machine a figure was measured on, by which code and when: every result carries it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from edge.processor import processor

EXTENSIONS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of x86 and ARM that decide how fast a processor infers, and in which precisions."""
LIBRARIES = (
    *("heatline", "openvino", "onnxruntime", "numpy", "opencv-python-headless", "pyzmq", "msgspec"),
    *("torch", "timm", "nncf"),
)
CODE = Path(__file__).parents[1]
CPUS = Path("/sys/devices/system/cpu")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """As it was when a bench began."""

    processor: str
    """Its name and, as that may be vague in a virtual machine, the numbers that its maker gave it."""
    extensions: list[str]
    """Those of its flags that decide how fast it infers."""
    flags: str
    """All of them, as the kernel has them."""
    governor: str | None
    """Of the frequency of the cores that may be used; None: nothing tells it, as in most virtual machines."""
    cores: int
    """That may be used."""
    affinity: list[int]
    """Which ones these are."""
    cores_in_all: int | None
    memory_mb: int
    load: list[float]
    """Mean number of processes that ran or waited, over 1, 5 and 15 minutes: what else was going on."""
    kernel: str
    is_virtual: bool
    """Whether a hypervisor runs below, which may give the cores to others."""
    python: str
    versions: dict[str, str]
    """Of the libraries that are installed."""
    commit: str | None
    """Of the code that ran; None where it is no checkout. `-dirty` where files were changed since."""
    at_utc: str
    """As 2026-11-26T06:32:10Z."""


def machine() -> dict[str, object]:
    """This machine, now: call it before the measurement, for the load to be that of others. Fields of `Machine`."""
    told = _cpuinfo()
    flags = told.get("flags") or told.get("Features", "")
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
        )
    )


def commit() -> str | None:
    """Of the code that runs; none where it is no checkout. `-dirty` where files were changed since."""
    if not (CODE / ".git").exists():  # installed, perhaps within somebody else's checkout
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


def _cpuinfo() -> dict[str, str]:
    """What the kernel says of the last core; a machine's cores are alike enough."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def _governor(cores: list[int]) -> str | None:
    """Of these cores; several where they differ."""
    files = [CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor" for core in cores]
    return ", ".join(sorted({file.read_text().strip() for file in files if file.is_file()})) or None


def _versions() -> dict[str, str]:
    """Told by what is installed, without importing any of it."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
