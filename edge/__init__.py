"""What runs on the line PC: camera frame in, verdict, heatmap and defect events out. Imports no torch."""

__version__ = "0.1.0"
