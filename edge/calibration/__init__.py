"""Thresholds from good frames, how reliable they are, and the recalibration of a bundle on the line."""
