"""A GigE Vision camera to measure with: Aravis' own device, in a process of its own whose power can be cut.

It speaks GVCP and GVSP over UDP as a camera does. Run as a program, it is that device, and obeys words on its standard
input until that is closed.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from ctypes import CFUNCTYPE, c_char_p, c_int, c_uint32, c_void_p
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edge.cameras import aravis
from edge.cameras.aravis import Function
from edge.errors import BenchError

GVCP_PORT: Final = 3956
ANSWER_WITHIN_SECONDS: Final = 20.0
SHIFTS: Final = 4096
"""How many pictures it shows before the first one comes again."""


def picture(hw: tuple[int, int], frame_id: int = 0) -> NDArray[np.uint8]:
    """What a frame shows, Mono8 [H, W]: the same noise in every frame, moved on by as many pixels as its id says."""
    return _cut(_noise(hw), hw, frame_id)


class GigeDevice:
    """A device that is switched on and off.

    Args:
        address: of this machine, as `ip address` shows it.
        hw: height and width of its sensor, px.
        rate_fps: as it comes from the factory; whoever opens it may set another one.
    """

    def __init__(self, address: str, hw: tuple[int, int], rate_fps: float = 25.0) -> None:
        self.address = address
        self._arguments = [address, str(hw[0]), str(hw[1]), str(round(1e6 / rate_fps))]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its process, while it is on."""
        assert self._process is not None, "it is off"
        return self._process.pid

    def switch_on(self) -> None:
        """Returns once it answers to its address.

        Raises:
            MissingExtraError: the Aravis library is not installed.
            BenchError: it does not, or another camera has that address.
        """
        aravis.load()
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((self.address, GVCP_PORT))
            except OSError as error:
                raise BenchError(
                    f"no GigE Vision device can be made at {self.address} ({error.strerror}); another camera may be "
                    "there, or it is no address of this machine: name one with --gige-address"
                ) from error
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.gige_device", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._await_answer("start")

    def cut_power(self) -> None:
        """It is gone from one moment to the next, and says nothing more; no harm where it is off."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self, frozen: bool) -> None:
        """Show the same picture again and again, or go on."""
        assert self._process is not None, "it is off"
        assert self._process.stdin is not None
        word = "freeze" if frozen else "thaw"
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        self._await_answer(word)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut_power()

    def _await_answer(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        came, _, _ = select.select([self._process.stdout], [], [], ANSWER_WITHIN_SECONDS)
        if not came or self._process.stdout.readline() != b"done\n":
            self.cut_power()
            raise BenchError(f"the GigE Vision device at {self.address} did not {word}; see the output above")


# The device's process.

_FILL = CFUNCTYPE(None, c_void_p, c_void_p, c_uint32, c_uint32, c_uint32)
_device_new = Function[int]("arv_gv_fake_camera_new", c_void_p, c_char_p, c_char_p, fails=False)
_is_running = Function[int]("arv_gv_fake_camera_is_running", c_int, c_void_p, fails=False)
_registers_of = Function[int]("arv_gv_fake_camera_get_fake_camera", c_void_p, c_void_p, fails=False)
_write = Function[int]("arv_fake_camera_write_register", c_int, c_void_p, c_uint32, c_uint32, fails=False)
_set_fill = Function[None]("arv_fake_camera_set_fill_pattern", None, c_void_p, _FILL, c_void_p, fails=False)
_data_of = Function[int]("arv_buffer_get_data", c_void_p, c_void_p, c_void_p, fails=False)
_WIDTH, _HEIGHT, _SENSOR_HEIGHT, _SENSOR_WIDTH, _PERIOD_US = 0x100, 0x104, 0x118, 0x11C, 0x138


def _noise(hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, hw[0] * hw[1] + SHIFTS, np.uint8)


def _cut(noise: NDArray[np.uint8], hw: tuple[int, int], frame_id: int) -> NDArray[np.uint8]:
    return noise[frame_id % SHIFTS :][: hw[0] * hw[1]].reshape(hw)


def main() -> None:
    """Be the device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever wanted it switches it off
    address, (height, width, period_us) = sys.argv[1], map(int, sys.argv[2:])
    noise, frozen_at = _noise((height, width)), [0]

    def fill(buffer: int, *_: int) -> None:
        shown = _cut(noise, (height, width), frozen_at[0] or aravis.buffer_frame_id(buffer))
        ctypes.memmove(_data_of(buffer, None), shown.ctypes.data, shown.size)

    device = _device_new(address, "BENCH")
    if not _is_running(device):
        sys.exit(f"there is no network interface with address {address}")
    registers = _registers_of(device)
    for register, value in (
        (_SENSOR_WIDTH, width), (_SENSOR_HEIGHT, height), (_WIDTH, width), (_HEIGHT, height), (_PERIOD_US, period_us),
    ):  # fmt: skip
        _write(registers, register, value)
    kept = _FILL(fill)
    _set_fill(registers, kept, None)
    print("done", flush=True)
    for line in sys.stdin:
        frozen_at[0] = 1 if line == "freeze\n" else 0
        print("done", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
    os._exit(0)  # the library's threads go on for ever
