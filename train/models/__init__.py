"""Classifiers that explain themselves, and the weights they start from. Importing the submodules imports torch."""
