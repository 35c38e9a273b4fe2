"""One file per system. Each is loaded by `serve.py`, which is run as a script by whichever Python has its libraries.

So none of them imports another, and those for the peers' environment import nothing of ours.
"""
