"""`heatline bench recipes`: how well each recipe finds defects, by grouped cross-validation over real data sets."""
