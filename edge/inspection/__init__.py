"""From a frame to a verdict: tiling, inference, stitching, judging; and the account of every frame."""
