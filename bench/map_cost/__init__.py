"""`heatline bench map-cost`: the cost of a map, compared with the same classifier alone, for each model.

A row has one model, map, engine, precision and batch, and is timed in interleaved rounds with the bare classifier in
one process. The bare classifier is the fastest variant: for a ViT, attention is one node per layer, or its products and
softmax.
"""
