"""The Modbus TCP bridge. docs/plant-modbus.md."""
