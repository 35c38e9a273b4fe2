"""`heatline bench stages`: the cost of each stage of a frame."""

import heatline.edge.cli  # noqa: F401  (keeps libraries to one thread, as the service does; they read that when first imported)
