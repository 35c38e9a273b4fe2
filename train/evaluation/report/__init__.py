"""The report of evaluations: ranks, the study's published figures, Markdown tables, and one self-contained page."""
