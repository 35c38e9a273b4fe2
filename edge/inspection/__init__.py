"""From a frame to a verdict: tiling, inference, stitching and judging; the ledger accounts for every frame."""
