"""The server of durable consumers, and their stored positions. docs/durable.md is the authority."""
