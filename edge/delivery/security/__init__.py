"""Authorizes the clients of a line's sockets: keys, allow-lists, refusals. docs/security.md describes what for."""
