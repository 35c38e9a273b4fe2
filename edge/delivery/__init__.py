"""Events to the PLC/MES, and commands from it. docs/protocol.md, durable.md and commands.md are the authority.

`client`, `subscriber` and `follower` connect to a line; the others are the line's side.
"""
