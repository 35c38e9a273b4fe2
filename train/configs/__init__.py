"""The configuration files of `heatline train`."""
