"""Inspects pictures without a line, in the calling process, for `heatline inspect` and `import heatline`."""

from heatline.edge.offline.inspector import BundleInspector, Picture
from heatline.edge.offline.result import InspectionResult

__all__ = ["BundleInspector", "InspectionResult", "Picture"]
