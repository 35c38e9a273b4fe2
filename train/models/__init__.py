"""Classifiers with explanation maps, and their pretrained weights. Importing the submodules imports torch."""
