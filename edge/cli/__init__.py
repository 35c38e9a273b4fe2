"""The one command, `heatline`."""
