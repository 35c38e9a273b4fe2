"""`heatline bench map-cost`: what a map costs beside the same classifier alone, of each system and each way to a map.

One row is one system, one map, one way, one engine, one precision and one batch, timed in turns with the bare
classifier in one process. The bare classifier is the fastest of what there is: of a ViT's exports, attention as one
node per layer or as the products and the softmax that it stands for; in PyTorch, timm's own forward pass.
"""
