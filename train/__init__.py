"""Teaches classifiers that explain themselves, from good / defective labels. Only its submodules import torch."""
