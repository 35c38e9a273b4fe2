"""Cameras: sources of frames, their processes and their supervision."""
