"""The service on the line PC: start, tick, stop."""
