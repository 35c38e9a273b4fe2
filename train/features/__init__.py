"""Features of the frozen trunk: extracted once per tile, cached on disk, read by every training."""
