"""Hears a line out, over all its restarts: every event's header, one per line, to standard output.

Run inside the container by heatline's own environment, which has ZeroMQ. It reads no event, so that what the tests
look at is what came over the wire.
"""

import sys

import zmq

address = sys.argv[1]
with zmq.Context() as context, context.socket(zmq.SUB) as socket:
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt_string(zmq.SUBSCRIBE, "")
    socket.connect(address)
    while True:
        _, header, *_ = socket.recv_multipart()
        sys.stdout.buffer.write(header + b"\n")
        sys.stdout.buffer.flush()
