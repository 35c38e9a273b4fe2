"""JSON Schemas of the messages, for readers in any language. `make schemas` writes them."""
