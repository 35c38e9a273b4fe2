"""`heatline cameras grab`: saves frames of a line's cameras, and measures their rate, jitter and losses."""
