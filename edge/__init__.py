"""What runs on the line PC: camera frame in, verdict, heatmap and defect events out. Imports no torch."""

__version__ = "0.1.0"

import sys

# OpenVINO would tell its maker how it is used, by way of this package. A line PC talks to its own plant alone.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
