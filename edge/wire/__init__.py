"""The messages between a line and its clients: events, requests and replies, and the payloads of the MQTT bridge.

docs/protocol.md, commands.md, durable.md and plant-mqtt.md are the authority; schemas/ has the JSON Schemas. The
package imports only msgspec and `heatline.edge.errors`, so a client loads nothing else, and renaming a field inside the
line does not change the wire.
"""
