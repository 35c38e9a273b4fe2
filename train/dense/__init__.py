"""The recipe `heatline`: a dense head on cached features of a frozen trunk, cross-validated by groups."""
