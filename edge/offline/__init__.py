"""Inspects pictures without a line, in the calling process, for `heatline inspect` and `import heatline`."""

from edge.offline.inspector import BundleInspector, Picture
from edge.offline.result import InspectionResult

__all__ = ["BundleInspector", "InspectionResult", "Picture"]
