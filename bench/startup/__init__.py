"""How long the service takes from the start of its process to READY, and to the first verdict."""
