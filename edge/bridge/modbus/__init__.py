"""The Modbus TCP bridge: a line's results and state in registers, and its commands. docs/plant-modbus.md.

`registers` is the one table of all registers; the server, the symbol file and the document are made from it.
"""
