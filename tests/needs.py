"""Debian packages that tests and `.ci/run` need. `python3 tests/needs.py` prints the missing, also without `.venv`."""

import glob
import os
import shutil

PACKAGES = {
    "chromium": "chromium",
    "chromium-driver": "chromedriver",
    "e2fsprogs": "mkfs.ext4",
    "gir1.2-gst-rtsp-server-1.0": "/usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib",
    "gstreamer1.0-plugins-bad": "/usr/lib/*/gstreamer-1.0/libgstopenh264.so",
    "gstreamer1.0-plugins-base": "/usr/lib/*/gstreamer-1.0/libgstvideotestsrc.so",
    "gstreamer1.0-plugins-good": "/usr/lib/*/gstreamer-1.0/libgstrtp.so",
    "iproute2": "ip",
    "libaravis-0.8-0": "/usr/lib/*/libaravis-0.8.so.0",
    "libfaketime": "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "mosquitto": "mosquitto",
    "nodejs": "node",
    "npm": "npm",
    "prometheus": "promtool",
    "python3": "/usr/bin/python3",
    "python3-gi": "/usr/lib/python3/dist-packages/gi/__init__.py",
    "python3-venv": "/usr/lib/python3.*/ensurepip/__init__.py",
    "shellcheck": "shellcheck",
    "systemd": "systemd-analyze",
    "systemd-container": "systemd-nspawn",
}
"""A program or a file of each package, which shows that it is installed."""
RTSP_SERVER = [name for name in PACKAGES if "gst" in name or name in ("python3", "python3-gi")]
REASON = "needs Debian packages: "
"""Start of the reason of a skip, before the packages' names."""


def find(package: str) -> str | None:
    """Return the path of the package's program or file; None: it is not installed."""
    wanted = PACKAGES[package]
    return next(iter(glob.glob(wanted)), None) or shutil.which(wanted, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def need(*packages: str) -> str:
    """Return the path of the first package's program or file; skip the test if one of the packages is missing."""
    import pytest

    if missing := [package for package in packages if find(package) is None]:
        pytest.skip(REASON + " ".join(missing))
    return find(packages[0]) or ""


def need_root() -> None:
    """Skip the test if this user is not root."""
    import pytest

    if os.geteuid() != 0:
        pytest.skip("needs root")


if __name__ == "__main__":
    print(*(package for package in PACKAGES if find(package) is None))
