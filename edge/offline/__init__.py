"""Inspects pictures without a line, in the calling process: what `heatline inspect` and `import heatline` share."""

from edge.offline.inspector import BundleInspector, Picture
from edge.offline.result import InspectionResult

__all__ = ["BundleInspector", "InspectionResult", "Picture"]
