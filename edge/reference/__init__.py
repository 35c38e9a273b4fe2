"""Compares a frame with a reference: a picture of a good part that lies in nearly the same place each time."""
