"""Events to the PLC/MES, and commands from it. docs/protocol.md, durable.md and commands.md are the authority.

`client` is what connects to a line; the rest is the line's side: publisher, journal, and the servers of commands and of
durable consumers. What both say to each other is `edge.wire`.
"""
