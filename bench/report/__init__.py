"""Report of result files, as one page with plots and as Markdown."""
