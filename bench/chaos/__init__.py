"""Delivery under faults."""
