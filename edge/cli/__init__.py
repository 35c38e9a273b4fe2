"""The one command, `heatline`."""

import os

# The cores belong to the engine. Libraries whose threads spin on them while they wait for each other make everything
# dearer: beside inference, the matrix product that stitches a 5 MP frame, made in one piece, took 12 ms of processor
# time on two threads, and 2 ms on one. They read this as they are first imported, and processes that are started
# inherit it.
for _variable in ("OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_variable, "1")
