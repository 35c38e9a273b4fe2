"""Inspects archives of pictures with many processes, on one machine or on a cluster, for `heatline archive`."""
