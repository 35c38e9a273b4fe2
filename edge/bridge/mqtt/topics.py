"""The topics of the MQTT bridge: PREFIX/LINE/KIND, and below it the camera where one is concerned."""

import re
from typing import Literal

from edge.errors import ConfigError

Kind = Literal["result", "heatmap", "state", "lost", "alarm", "change", "review"]
PER_CAMERA: tuple[Kind, ...] = ("result", "heatmap")
_LEVEL = re.compile(r"[^+#/\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""A level of a topic: MQTT reserves `+`, `#` and `/`."""


class Topics:
    """The topics of one line.

    Args:
        prefix: levels before the line's name.
        line: the line's name.
    Raises:
        ConfigError: the name cannot be a level of a topic.
    """

    def __init__(self, prefix: str, line: str) -> None:
        if not _LEVEL.fullmatch(line):
            raise ConfigError(
                f"the line's name is {line!a}, which cannot be part of an MQTT topic; name its file without + and #, "
                "in UTF-8"
            )
        self._base = f"{prefix}/{line}"

    def of(self, kind: Kind, camera: str | None = None) -> str:
        """Return a topic; those of `PER_CAMERA` need a camera."""
        assert (camera is not None) == (kind in PER_CAMERA)
        return f"{self._base}/{kind}" if camera is None else f"{self._base}/{kind}/{camera}"
