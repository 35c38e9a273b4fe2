"""Where tiles lie in a frame, how their maps become one heatmap, and what regions stand out of it."""

from edge.geometry.area_of_interest import WHOLE_FRAME, AreaOfInterest
from edge.geometry.regions import Region, find_regions
from edge.geometry.stitching import Stitcher
from edge.geometry.tiling import TileGrid

__all__ = ["WHOLE_FRAME", "AreaOfInterest", "Region", "Stitcher", "TileGrid", "find_regions"]
