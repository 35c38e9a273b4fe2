"""Receives pictures from a running line."""

from pathlib import Path
from typing import Self

from edge.pictures.picture import Picture


class PictureClient:
    """A connection to a line's pictures. One thread uses it.

    The line sends a picture only while this program holds fewer than `slots`; others it skips and counts. So a slow
    program gets fewer pictures, never old ones, and never delays the line.

    Args:
        path: the line's socket, see `picture_socket`.
        slots: number of pictures that this program can hold at once.
        good_every: of the GOOD frames of each camera, send each n-th; 0: none. Frames with another verdict are always
            wanted.
    Raises:
        DeliveryError: the line does not run, or this user may not connect.
    """

    def __init__(self, path: Path, *, slots: int = 1, good_every: int = 1) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a picture waits, or the line has ended."""
        raise NotImplementedError

    def receive(self, timeout_s: float | None) -> Picture | None:
        """Return the next picture; None if none came in time.

        Raises:
            DeliveryError: the line has ended.
        """
        raise NotImplementedError

    def report(self, state: bytes) -> None:
        """Send the line this program's state, which its status then shows; MessagePack of `EvidenceState`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""
        raise NotImplementedError
