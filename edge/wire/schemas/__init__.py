"""The JSON Schemas of the events, for readers in any language: made by `make schemas`, never by hand."""
