"""The service on the line PC."""
