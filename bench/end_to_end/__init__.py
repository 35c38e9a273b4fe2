"""The whole way, from a camera to a subscriber, beside the bare engine."""
