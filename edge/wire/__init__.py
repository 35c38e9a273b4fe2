"""What goes over the wire: events out, requests in and replies to them.

docs/protocol.md, commands.md and durable.md are the authority, schemas/ has the JSON Schemas. It is a leaf: it imports
msgspec and `edge.errors` only, so a client loads nothing else, and renaming a field inside the line does not change it.
"""
