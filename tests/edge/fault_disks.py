"""Disks that are full or that cannot be written: real file systems, mounted for a test."""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need


@contextlib.contextmanager
def small_disk(place: Path, mib: int = 1) -> Iterator[Path]:
    """Mount an empty disk of this size; skip the test if that is not possible."""
    with _mounted(place, "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs"):
        yield place


@contextlib.contextmanager
def failing_disk(place: Path, mib: int = 8) -> Iterator[Path]:
    """Mount an ext4, which can be frozen or lose its power; skip the test if that is not possible."""
    image = place.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run([need("e2fsprogs"), "-q", "-F", image], check=True)
    with _mounted(place, "-o", "loop", str(image)):
        yield place


def fill(disk: Path) -> Path:
    """Write until the disk is full; return the file."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0
    return filler


@contextlib.contextmanager
def power_cut(disk: Path) -> Iterator[None]:
    """Discard all unsynchronised writes to a `failing_disk`; close all its files within the block."""
    shut_down_without_flushing = 0x8004587D, struct.pack("I", 2)  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, *shut_down_without_flushing)
    finally:
        os.close(fd)
    yield
    for command in (("umount", str(disk)), ("mount", "-o", "loop", str(disk.with_suffix(".img")), str(disk))):
        done = _tool(*command)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Freeze a `failing_disk`: all calls that write to it block until the end of the block."""
    done = _tool("fsfreeze", "--freeze", str(disk))
    if done.returncode != 0:
        pytest.skip(f"no disk can be frozen here: {done.stderr.strip()}")
    try:
        yield
    finally:
        _tool("fsfreeze", "--unfreeze", str(disk))


def make_read_only(disk: Path, how: str = "ro") -> None:
    """Remount a disk read-only, as an administrator does; no file may be open for writing."""
    done = _tool("mount", "-o", f"remount,{how}", str(disk))
    assert done.returncode == 0, done.stderr


def make_writable(disk: Path) -> None:
    """Remount a disk so that it can be written again."""
    make_read_only(disk, "rw")


@contextlib.contextmanager
def _mounted(place: Path, *what: str) -> Iterator[None]:
    place.mkdir()
    done = _tool("mount", *what, str(place))
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        _tool("umount", "--lazy", str(place))


def _tool(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, text=True, capture_output=True, check=False)
