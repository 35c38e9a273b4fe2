"""Events to the PLC/MES, and commands from it. docs/protocol.md, durable.md and commands.md are the authority.

`client` connects to a line. The other packages are the line's side: publisher, journal, and the servers of commands and
of durable consumers. `heatline.edge.wire` defines the messages between both sides.
"""
