"""`heatline bench end-to-end`: rate and latency from a camera to a subscriber, compared with the bare engine."""
