"""Trains classifiers with explanation maps from good / defective labels. Only its submodules import torch."""
