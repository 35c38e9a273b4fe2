"""The journal: every event on the disk before it is on the wire. docs/journal.md says what of."""
