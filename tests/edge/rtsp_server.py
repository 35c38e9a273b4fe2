"""A real RTSP server to test against: GStreamer's, run by the system's Python, which has its bindings.

Tests import it for `RtspServer`; the system's Python runs it as a script.
"""

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYSTEM_PYTHON = Path("/usr/bin/python3")
WITHIN_SECONDS = 30.0
FPS = 25
WIDTH, HEIGHT = 160, 120
RED, GREEN, BLUE = 200, 40, 90
"""The colour that fills every frame."""

H264 = "videoconvert ! video/x-raw,format=I420 ! openh264enc gop-size=5 ! h264parse "
PAY_H264 = "! rtph264pay name=pay0 pt=96 config-interval=1"
STREAMS = {
    "raw": "videoconvert ! video/x-raw,format=RGB ! rtpvrawpay name=pay0 pt=96",
    "h264": H264 + PAY_H264,
    "damaged": f"{H264} ! breakmydata seed=1 probability=0.01 skip=16 {PAY_H264}",
}
"""Streams by path; raw video is transmitted without changes; of damaged, the data of some frames."""


class RtspServer:
    """A server in a process of its own, at a port that is reserved while `holder` is open."""

    def __init__(self, holder: socket.socket) -> None:
        self.port: int = holder.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start or restart the server, and wait until it serves."""
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, __file__, str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout.readline() == "ready\n", "the RTSP server did not start"

    def url(self, stream: str) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{stream}"

    def freeze(self, frozen: bool = True) -> None:
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass  # closes its pipe and waits for its end


@contextlib.contextmanager
def rtsp_server() -> Iterator[RtspServer]:
    """Run a server, and kill it at the end; skip the test if no server can run here."""
    from tests.needs import RTSP_SERVER, need  # the system's Python, which runs this file as a script, has no `tests`

    need(*RTSP_SERVER)
    with socket.socket() as holder:  # bound and not listening: the server, which sets SO_REUSEADDR too, may bind it
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        server = RtspServer(holder)
        try:
            yield server
        finally:
            server.kill()


def _serve(port: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the tests
    server: Any = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    colour = (255 << 24) + (RED << 16) + (GREEN << 8) + BLUE
    for path, encoding in STREAMS.items():
        factory: Any = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(
            f"( videotestsrc is-live=true pattern=solid-color foreground-color={colour} "
            f"! video/x-raw,width={WIDTH},height={HEIGHT},framerate={FPS}/1 ! {encoding} )"
        )
        server.get_mount_points().add_factory(f"/{path}", factory)
    if not server.attach(None):
        sys.exit(f"port {port} cannot be bound")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve(sys.argv[1])
