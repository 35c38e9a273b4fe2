"""Judged frames with their pixels, from a running line to other programs of this PC such as the evidence store."""
