"""Where pretrained weights come from. Needs no torch, so that a run can be read without it."""

import msgspec


class Provenance(msgspec.Struct, frozen=True):
    """Where the weights that a training started from come from."""

    source: str
    """In words: a package and its version, a hub and its model, a file, or "random"."""
    sha256: str | None = None
    licence: str | None = None
