"""What a folder of labelled pictures says: one file here per annotation format, one that puts a folder together."""

from train.readers.folder import read_folder
from train.readers.labelled import LabelledFolder, LabelledImage

__all__ = ["LabelledFolder", "LabelledImage", "read_folder"]
