"""The report of evaluations: one self-contained page, Markdown tables, ranks, and the study's published figures."""
