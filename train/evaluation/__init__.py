"""Evaluation of models on labelled pictures, by the study's rule and by the line's, with intervals."""
