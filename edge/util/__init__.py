"""Small helpers that know nothing of cameras, bundles or lines."""
