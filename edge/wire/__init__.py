"""The messages between a line and its clients: events, requests and replies.

docs/protocol.md, commands.md and durable.md are the authority; schemas/ has the JSON Schemas. The package
imports only msgspec and `edge.errors`, so a client loads nothing else, and renaming a field inside the line does not
change the wire.
"""
