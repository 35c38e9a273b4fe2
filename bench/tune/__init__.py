"""The engine's best settings for one machine, one bundle and one line's frames, by measured latency."""
