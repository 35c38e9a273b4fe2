"""Search for the batch size and learning rate of a recipe, over as many processes and machines as take part."""
