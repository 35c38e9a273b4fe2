"""Turns a trained run into a bundle: classifier and map in one graph, verified against the model it came from."""
