"""The first thing done on a new line: frames of its cameras, saved to look at, with their rate, jitter and losses."""
