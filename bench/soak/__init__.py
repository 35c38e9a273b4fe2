"""Does anything grow, run for long: memory, descriptors, threads, latency."""
