"""Training of many products, one folder each, on this machine or on a Ray cluster."""
