"""Small helpers that do not depend on cameras, bundles or lines."""
