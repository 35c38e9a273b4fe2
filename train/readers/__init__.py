"""Readers of labelled folders: one module per annotation format, and `folder`, which combines them."""

from heatline.train.readers.folder import read_folder
from heatline.train.readers.labelled import LabelledFolder, LabelledImage

__all__ = ["LabelledFolder", "LabelledImage", "read_folder"]
