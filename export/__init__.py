"""Exports a trained run as a bundle: classifier and map in one graph, verified against the trained model."""
