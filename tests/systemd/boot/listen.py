"""Writes the header of every event of a line to standard output, over all its restarts; in heatline's Python."""

import sys

import zmq

with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
    subscriber.setsockopt(zmq.RECONNECT_IVL, 20)
    subscriber.setsockopt(zmq.RCVHWM, 0)
    subscriber.setsockopt_string(zmq.SUBSCRIBE, "")
    subscriber.connect(sys.argv[1])
    while True:
        _, header, *_ = subscriber.recv_multipart()
        sys.stdout.buffer.write(header + b"\n")
        sys.stdout.buffer.flush()
