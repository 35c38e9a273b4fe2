"""GigE Vision cameras for tests: real devices that use GVCP and GVSP over UDP, on addresses of loopback.

`aravis_camera` is Aravis' own device in a separate process, which runs this file. It shows given pictures and can be
killed and frozen. `viva_camera` is an independent device with chunks, packet resend and packets that are lost.
"""

import contextlib
import ctypes
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_double, c_int, c_uint32, c_void_p
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.cameras import aravis
from heatline.edge.cameras.aravis import Function
from tests.command import ROOT
from tests.needs import need

if TYPE_CHECKING:
    from viva_genicam.testing import FakeGigeCamera

GVCP_PORT = 3956
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 65)]
START_WITHIN_S = 30.0

Picture = NDArray[np.uint8] | NDArray[np.uint16]


class AravisCamera:
    """A running device. It shows `pictures[frame_id % len(pictures)]`, cropped to the configured region."""

    def __init__(self, address: str, pictures: Sequence[Picture], pixel_format: str, rate_fps: float) -> None:
        self.address, self.serial = address, f"HL{secrets.token_hex(4)}"
        self._settings: dict[str, Any] = {"pictures": list(pictures)}
        self._settings |= {"pixel_format": pixel_format, "rate_fps": rate_fps}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def picture(self, frame_id: int | None) -> Picture:
        """Return the picture of the frame with this id by default."""
        assert frame_id is not None
        pictures: list[Picture] = self._settings["pictures"]
        return pictures[frame_id % len(pictures)]

    def start(self) -> None:
        """Switch the device on, and wait until it answers. Frame ids begin at 65401: after 135 frames, they wrap."""
        assert self._process is None, "it is on"
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.edge.gv_cameras", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._pipe = Connection(ours.detach())
        self.tell("start", address=self.address, serial=self.serial, **self._settings)

    def kill(self) -> None:
        """Cut the power of the device."""
        assert self._process is not None, "it is off"
        assert self._pipe is not None
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._process = self._pipe = None

    def show(self, pictures: Sequence[Picture]) -> None:
        """Show other pictures of the same size from now on."""
        self._settings["pictures"] = list(pictures)
        self.tell("show", pictures=list(pictures))

    def tell(self, what: str, **how: Any) -> None:
        """Call this method of `_Device` in the device's process."""
        assert self._pipe is not None, "it is off"
        self._pipe.send((what, how))
        assert self._pipe.poll(START_WITHIN_S), f"the camera's process did not {what}"
        problem = self._pipe.recv()
        assert problem is None, problem


@contextlib.contextmanager
def aravis_camera(
    pictures: Sequence[Picture] = (), *, pixel_format: str = "Mono8", rate_fps: float = 25.0
) -> Iterator[AravisCamera]:
    """Run Aravis' device, on a loopback address that no other camera has. `pictures`: its pictures; the first one sets
    the camera's size. None: four different ones of 64x48. `pixel_format`: one of `_CODES`."""
    need_aravis()
    with leased() as address, loopback_has(address):
        camera = AravisCamera(address, list(pictures) or noise(4, 48, 64), pixel_format, rate_fps)
        try:
            camera.start()
            yield camera
        finally:
            if camera._process is not None:
                camera.kill()


@contextlib.contextmanager
def viva_camera(**settings: Any) -> Iterator["FakeGigeCamera"]:
    """Run viva-genicam's device in threads of this process, with the arguments of its FakeGigeCamera (packet_resend,
    drop_packets, pixel_format, ...)."""
    need_aravis()
    testing = pytest.importorskip("viva_genicam.testing", reason="viva-genicam is not installed")
    with leased() as address, testing.FakeGigeCamera(bind_ip=address, **settings) as camera:
        yield camera


def need_aravis() -> None:
    need("libaravis-0.8-0")


def noise(
    count: int, height: int, width: int, channels: int = 1, dtype: type[np.uint8 | np.uint16] = np.uint8
) -> list[Picture]:
    """Return pictures that differ in every region: [height, width] or [height, width, channels]."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    top = np.iinfo(dtype).max
    return [np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True) for seed in range(count)]


@contextlib.contextmanager
def leased() -> Iterator[str]:
    """Reserve a loopback address that no other camera of this or another test run uses.

    A TCP socket holds the reservation: cameras only use UDP.
    """
    for address in ADDRESSES:
        with socket.socket() as lease, socket.socket(type=socket.SOCK_DGRAM) as probe:
            try:
                lease.bind((address, GVCP_PORT))
                probe.bind((address, GVCP_PORT))
            except OSError:
                continue
            probe.close()
            yield address
            return
    raise AssertionError("every address has a camera already")


@contextlib.contextmanager
def loopback_has(address: str) -> Iterator[None]:
    """Add an address to lo if it lacks it: Aravis' device requires that an interface has its address."""
    command = [need("iproute2"), "address", "add", f"{address}/8", "dev", "lo"]
    added = subprocess.run(command, capture_output=True, text=True, check=False)
    if added.returncode and "exists" not in added.stderr and "already" not in added.stderr and address != ADDRESSES[0]:
        pytest.skip(f"a second camera needs a second address on lo: {added.stderr.strip()}")
    try:
        yield
    finally:
        if not added.returncode:
            subprocess.run([*command[:2], "del", *command[3:]], capture_output=True, check=False)


_FILL = CFUNCTYPE(None, c_void_p, c_void_p, c_uint32, c_uint32, c_uint32)
_device_new = Function("arv_gv_fake_camera_new", c_void_p, c_char_p, c_char_p)
_registers_of = Function("arv_gv_fake_camera_get_fake_camera", c_void_p, c_void_p)
_read = Function("arv_fake_camera_read_register", c_int, c_void_p, c_uint32, POINTER(c_uint32))
_write = Function("arv_fake_camera_write_register", c_int, c_void_p, c_uint32, c_uint32)
_set_fill = Function("arv_fake_camera_set_fill_pattern", None, c_void_p, _FILL, c_void_p)
_set_trigger_rate = Function("arv_fake_camera_set_trigger_frequency", None, c_void_p, c_double)
_data_of = Function("arv_buffer_get_data", c_void_p, c_void_p, c_void_p)
_set_double_property = Function("g_object_set", None, c_void_p, c_char_p, c_double, c_void_p)
_REGISTERS = {
    "width": 0x100, "height": 0x104, "sensor_height": 0x118, "sensor_width": 0x11C,
    "pixel_format": 0x128, "x": 0x130, "y": 0x134, "period_us": 0x138,
}  # fmt: skip
_SERIAL = slice(0xD8 + 8, 0xD8 + 8 + 16)
"""Offset of the serial number in a discovery reply, after the header."""
_CODES = {"Mono8": 0x01080001, "Mono16": 0x01100007, "RGB8": 0x02180014, "BayerRG8": 0x01080009}


class _Device:
    """Executes an AravisCamera's commands, in the process of the device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: list[Picture] = []
        self._left_out = 0
        self._frozen: bytes | None = None
        self._freezing = False
        self._fill = _FILL(self._on_fill)

    def start(self, address: str, serial: str, pictures: list[Picture], pixel_format: str, rate_fps: float) -> None:
        self._pictures, self._address = pictures, address
        self._device = _device_new(address, serial)
        self._registers = _registers_of(self._device)
        height, width = pictures[0].shape[:2]
        self._set(
            sensor_width=max(width, 16), sensor_height=max(height, 16), width=width, height=height,
            pixel_format=_CODES[pixel_format], period_us=round(1e6 / rate_fps),
        )  # fmt: skip
        _set_fill(self._registers, self._fill, None)
        assert self._serial_at_address() == serial, f"{address} has a camera already, or is no address of this machine"

    def show(self, pictures: list[Picture]) -> None:
        with self._lock:
            self._pictures = pictures

    def freeze(self, frozen: bool) -> None:
        """Repeat the picture of one frame: a sensor that hangs."""
        with self._lock:
            self._freezing, self._frozen = frozen, None

    def leave_out(self, frames: int) -> None:
        """Skip this many frame ids, as if frames were lost before they were sent."""
        with self._lock:
            self._left_out += frames

    def lose_packets(self, ratio: float) -> None:
        """Lose this share of stream packets at random. The device resends none."""
        _set_double_property(self._device, "gvsp-lost-ratio", ratio, None)

    def trigger_rate(self, rate_fps: float) -> None:
        """Set how often the device checks for triggers; 25 times a second at first."""
        _set_trigger_rate(self._registers, rate_fps)

    def _set(self, **registers: int) -> None:
        for name, value in registers.items():
            _write(self._registers, _REGISTERS[name], value)

    def _get(self, name: str) -> int:
        value = c_uint32()
        _read(self._registers, _REGISTERS[name], byref(value))
        return value.value

    def _serial_at_address(self) -> str:
        """Send the device a request over the network."""
        with socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.bind((self._address, 0))
            asking.settimeout(START_WITHIN_S)
            asking.sendto(bytes.fromhex("42010002 0000 ffff"), (self._address, GVCP_PORT))
            reply = asking.recv(1024)
        return reply[_SERIAL].split(b"\0")[0].decode()

    def _on_fill(self, buffer: int, _: int, __: int, ___: int, pixel_format: int) -> None:
        """Set the picture and the id of the frame that the device sends next."""
        with self._lock:
            frame_id = (aravis.buffer_get_frame_id(buffer) - 1 + self._left_out) % 65535 + 1  # 16-bit ids skip 0
            aravis.buffer_set_frame_id(buffer, frame_id)
            x, y, width, height = (self._get(name) for name in ("x", "y", "width", "height"))
            size = width * height * (pixel_format >> 16 & 0xFF) // 8
            shown = self._frozen
            if shown is None:
                shown = self._pictures[frame_id % len(self._pictures)][y : y + height, x : x + width].tobytes()
                self._frozen = shown if self._freezing else None
            shown = shown[:size].ljust(size, b"\0")
            ctypes.memmove(_data_of(buffer, None), shown, size)


def _be_a_device(pipe: Connection) -> None:
    device = _Device()
    with contextlib.suppress(EOFError):  # the test has ended
        while True:
            what, how = pipe.recv()
            try:
                getattr(device, what)(**how)
                pipe.send(None)
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _be_a_device(Connection(int(sys.argv[1])))
    os._exit(0)
