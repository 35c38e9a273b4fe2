"""Classifiers with explanation maps, and their pretrained weights. Importing the package imports torch and timm."""
