"""A peer that floods a socket and resets its connection must not end the process."""

import subprocess
import sys

import pytest
import zmq

RESET = """
import socket as sockets
import struct
import sys

import zmq

from heatline.edge.delivery.sockets import notice_vanished_peers

context = zmq.Context()
socket = context.socket(int(sys.argv[1]))
notice_vanished_peers(socket)
socket.setsockopt(zmq.RCVHWM, 5)
port = socket.bind_to_random_port("tcp://127.0.0.1")
monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
peer = sockets.create_connection(("127.0.0.1", port))
peer.sendall(bytes.fromhex("ff00000000000000007f0301") + b"NULL".ljust(20, bytes(1)) + bytes(32))  # ZMTP 3.1
ready = b"\\x05READY\\x0bSocket-Type" + struct.pack(">I", len(sys.argv[2])) + sys.argv[2].encode()
peer.sendall(bytes([4, len(ready)]) + ready)
monitor.recv_multipart()
peer.setblocking(False)
try:
    while True:  # until the socket takes no more: its queue is full
        peer.send(b"\\x00\\x05\\x01hell" * 1000)
except BlockingIOError:
    pass
peer.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
peer.close()  # with a reset
# Longer than ZeroMQ's heartbeats of 1 s took to abort the process; nothing else would show that they are off.
monitor.poll(1500)
while socket.poll(0):
    socket.recv()
print("alive")
"""


@pytest.mark.parametrize(("kind", "peer"), [("ROUTER", "DEALER"), ("XPUB", "SUB"), ("SUB", "PUB")])
def test_a_flood_and_a_reset_do_not_end_the_process(kind: str, peer: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RESET, str(int(getattr(zmq, kind))), peer],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")
