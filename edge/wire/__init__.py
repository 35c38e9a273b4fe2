"""The messages between a line and its clients: events, requests and replies.

docs/protocol.md, commands.md and durable.md are the authority; schemas/ has the JSON Schemas. A client loads only
msgspec and `heatline.edge.errors` beside this package.
"""
