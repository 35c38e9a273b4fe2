"""Shows a line at work, in a process of its own: a page, an API, and metrics. The line runs without it."""
