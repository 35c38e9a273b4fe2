"""`heatline bench map-cost`: what a map costs beside the same classifier alone, of each model.

One row is one model, one map, one engine, one precision and one batch, timed in turns with the bare classifier in one
process. The bare classifier is the fastest of what there is: of a ViT's exports, attention as one node per layer or as
the products and the softmax that it stands for.
"""
