"""`heatline calibrate scale`: the scale of a camera, from a picture of a grid or two points with a known distance."""

import math
from pathlib import Path
from typing import Any

import click
import cv2
import msgspec
import numpy as np

from heatline.edge.calibration.scale import find_grid, scale_of_grid, scale_of_points
from heatline.edge.cli.bundle_formatting import percent
from heatline.edge.cli.output import FiniteRange, json_option, print_report
from heatline.edge.config import load_config
from heatline.edge.errors import ConfigError, InputError
from heatline.edge.images import read_rgb
from heatline.edge.monitor.activation import replace_file, with_key
from heatline.edge.target import file_of

COUNTS: dict[str, Any] = {"nargs": 2, "type": click.IntRange(3), "metavar": "COLUMNS ROWS"}
MILLIMETRES = FiniteRange(0, 10_000, min_open=True)


@click.command(epilog="Example: heatline calibrate scale line1 top grid.png --checkerboard 9 6 --mm 5")
@click.argument("line")
@click.argument("camera")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--checkerboard", **COUNTS, help="Inner corners of a row and of a column.")
@click.option("--dots", **COUNTS, help="Dark dots of a row and of a column.")
@click.option("--points", nargs=4, type=float, metavar="X Y X Y", help="Two points, px.")
@click.option(
    "--mm", type=MILLIMETRES, required=True, help="Distance of neighbouring corners or dots, or of the points."
)
@json_option
def scale(line: str, camera: str, picture: Path, mm: float, as_json: bool, **ways: Any) -> None:
    """Measure the scale of CAMERA in PICTURE, and write it into the file of LINE.

    PICTURE shows a grid that lies where the parts lie, or two points with a known distance. Regions of events then have
    their size in mm.
    """
    given = [(way, numbers) for way, numbers in ways.items() if numbers is not None]
    if len(given) != 1:
        raise click.UsageError("name one of --checkerboard, --dots and --points")
    file, ((way, numbers),) = file_of(line), given
    cameras = {each.name: each for each in load_config(file).cameras}
    if camera not in cameras:
        raise ConfigError(f"{file} has no camera {camera!r}; expected one of {', '.join(cameras)}")
    grey = cv2.cvtColor(read_rgb(picture), cv2.COLOR_RGB2GRAY)
    size = grey.shape[1], grey.shape[0]
    if (expected := cameras[camera].size) not in ("first", "any", size):
        raise InputError(f"{picture} is {size[0]}x{size[1]} px, camera {camera} gives {expected}; keep one of its own")
    try:
        if way == "points":
            measured, points = scale_of_points(numbers, mm, size), np.reshape(numbers, (2, 2))
        else:
            points = find_grid(grey, way, *numbers)
            measured = scale_of_grid(points, numbers[0], mm, size)
    except (InputError, ValueError) as error:
        raise InputError(f"{picture}: {error}") from error
    value = msgspec.json.decode(msgspec.json.encode(measured))
    text = with_key(file.read_bytes().decode("utf-8-sig"), "scale", value, None, file, camera=camera)
    replace_file(file, text.encode())
    middle, *beside = measured.to_mm(np.array(size) / 2 + np.array([(0, 0), (1, 0), (0, 1)]))
    covered = cv2.contourArea(cv2.convexHull(points.astype(np.float32))) / math.prod(size)
    facts = {
        "a px in the middle": "{:.4g} x {:.4g} mm".format(*np.linalg.norm(np.array(beside) - middle, axis=1)),
        "error of a point": f"{measured.error_mm:.2g} mm at most"
        + ("" if way == "points" else f" within the grid, {percent(covered)} of the picture; beyond, more"),
        "distortion": f"{measured.distortion_px:.2f} px at most, {'' if measured.distortion else 'not '}corrected",
    }
    title = f"the scale of camera {camera} is stored in {file}; heatline reload {line}, or a restart, applies it"
    print_report({"file": str(file), "camera": camera, "scale": value}, as_json, title, facts)
