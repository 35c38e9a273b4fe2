"""What each stage of a frame's way costs by itself: `heatline bench stages`."""

import edge.cli  # noqa: F401  (keeps libraries to one thread, as the service does; they read that when first imported)
