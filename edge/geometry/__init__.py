"""Tiles of a frame, the heatmap that their maps form, and the defect regions in it."""

from heatline.edge.geometry.regions import find_regions
from heatline.edge.geometry.stitching import Stitcher
from heatline.edge.geometry.tiling import WHOLE_FRAME, RegionOfInterest, TileGrid
from heatline.edge.wire.events import Region

__all__ = ["WHOLE_FRAME", "Region", "RegionOfInterest", "Stitcher", "TileGrid", "find_regions"]
