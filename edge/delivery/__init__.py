"""Events to the PLC/MES. docs/protocol.md is the authority."""
