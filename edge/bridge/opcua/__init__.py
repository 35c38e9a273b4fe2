"""The OPC UA bridge: a server that offers a line's results and state. docs/plant-opcua.md."""
