"""Where a camera's frames are looked at."""

from edge.cameras.settings import CameraSettings
from edge.errors import ConfigError
from edge.geometry.area_of_interest import AreaOfInterest


def area_of(camera: CameraSettings) -> AreaOfInterest:
    """What of its frames is inspected."""
    return AreaOfInterest.of(camera.look_at, camera.look_away)


def check_area(camera: CameraSettings, where: str = "") -> None:
    """See that its polygons leave something to inspect.

    Args:
        where: what else the sentence says of whose polygons these are.
    Raises:
        ConfigError: they leave nothing, or nobody knows of which size they are.
    """
    who = f"{where}camera {camera.name}"
    if not (camera.look_at or camera.look_away):
        return
    if not isinstance(camera.size, tuple):
        raise ConfigError(
            f"{who} says where to look, but its size is {camera.size!r}; set size to the width and "
            "height, px, in which its polygons count"
        )
    width, height = camera.size
    if not area_of(camera).mask((height, width)).any():
        raise ConfigError(
            f"{who}: look_at and look_away leave nothing of {width}x{height} px to inspect; "
            "check the polygons, (x, y) in px"
        )
