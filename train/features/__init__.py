"""Features of the frozen trunk: extracted once per tile, kept on disk, read by every training."""
