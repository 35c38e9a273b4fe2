"""How well a model finds what is known to be there: by the study's rule, by the line's, and how sure that is."""
