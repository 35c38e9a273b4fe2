"""Trains a bundle's model again with reviewed frames of its line, and compares both. docs/retrain.md."""
