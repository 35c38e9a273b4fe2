"""Shows a shift report as one HTML page, with maps of where defects lie on the part."""

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.store import Bundle, read_manifest
from heatline.edge.config import load_config
from heatline.edge.errors import HeatlineError
from heatline.edge.heatmap_picture import tint
from heatline.edge.monitor.shift_report import CELLS, Tally
from heatline.edge.util.page import jpeg_uri, page_templates
from heatline.edge.wire.events import in_words

CELL_PX = 10
KERNEL_CELLS = 1.5
"""Standard deviation of the Gaussian kernel."""


def html_of(file: Path, report: dict[str, Any], tally: Tally, *, served: bool = False, problem: str = "") -> str:
    """Return a report as a page.

    Args:
        file: the line's file, which names the bundles with the references; it need not exist.
        report: empty because of the `problem`, if there is one.
        served: whether the page has a form that asks for another time.
    """
    maps = [
        {
            "title": " / ".join(name for name in of if name != "none"),
            "defects": cells.total(),
            "uri": jpeg_uri(density_map(_reference(file, *of), cells, tally.frame_hw[of])),
        }
        for of, cells in sorted(tally.cells.items(), key=lambda each: -each[1].total())[:12]
    ]
    template = page_templates("heatline.edge.monitor").get_template("shift.html.jinja")
    return template.render(report=report, maps=maps, served=served, problem=problem, in_words=in_words)


def density_map(
    reference: NDArray[np.uint8] | None, cells: dict[tuple[int, int], int], frame_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the density of defects over the reference, BGR [H, W, 3]: a Gaussian kernel, scaled to the densest cell.

    Args:
        reference: RGB [H, W, 3]; None: over an empty frame.
        cells: defects by row and column, `CELLS` along the longer side.
    """
    side = max(frame_hw)
    counts = np.zeros([-(-each * CELLS // side) for each in frame_hw], np.float32)
    for place, number in cells.items():
        counts[place] = number
    smooth = cv2.GaussianBlur(counts, (0, 0), KERNEL_CELLS, borderType=cv2.BORDER_CONSTANT)
    shown_wh = (round(frame_hw[1] * CELLS * CELL_PX / side), round(frame_hw[0] * CELLS * CELL_PX / side))
    rgb = np.full((1, 1, 3), 225, np.uint8) if reference is None else reference
    grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), shown_wh, interpolation=cv2.INTER_AREA)
    share = np.round(smooth / smooth.max() * 255).astype(np.uint8)
    tinted = tint(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8), share, CELL_PX)
    return cv2.cvtColor(tinted, cv2.COLOR_RGB2BGR).astype(np.uint8)


def _reference(file: Path, camera: str, product: str) -> NDArray[np.uint8] | None:
    """Return what the product's bundle compares the camera's frames with; None: nothing that can be opened."""
    with contextlib.suppress(HeatlineError, KeyError):  # it is no line's file, or the line itself reports it
        path = load_config(file).of_product(None if product == "none" else product).require_bundle()
        references = Bundle(path, *read_manifest(path)).references()
        return references[camera if camera in references else ""].rgb
    return None
