"""Writes the header of every event of a line to standard output, one per line, over all restarts of the line.

Runs inside the container in heatline's own environment, which has ZeroMQ. It does not decode the events: the tests
check the bytes that came over the wire.
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
