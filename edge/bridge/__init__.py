"""Bridges: programs that carry a line's results to the plant, each in a process of its own. docs/plant.md."""
