"""Judged frames with their pixels, from a running line to other programs of this PC: the evidence store, the live view."""
