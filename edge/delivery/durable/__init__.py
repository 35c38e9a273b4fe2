"""Durable consumers and what serves them. docs/durable.md is the authority."""
