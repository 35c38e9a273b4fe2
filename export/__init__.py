"""Turns a trained run into a bundle: one graph with classifier and map, verified to agree with the model it came from."""
