"""Who may connect to a line's sockets: keys, allow-lists, and what is refused. docs/security.md says what for."""
