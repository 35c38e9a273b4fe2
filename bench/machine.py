"""What machine a figure was measured on: every result carries it."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, object]:
    """Processor, cores, load and versions, now."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("heatline", "numpy", "onnxruntime", "opencv-python-headless", "openvino")},
    }


def commit() -> str | None:
    """Of the code that runs; none where it is no checkout. `-dirty` where files were changed since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    """The processor's name and the vector extensions that decide how fast it infers."""
    lines = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            lines[name.strip()] = value.strip()
    flags = set(lines.get("flags", "").split())
    extensions = sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"})
    return f"{lines.get('model name', platform.processor())}, {' '.join(extensions)}"
