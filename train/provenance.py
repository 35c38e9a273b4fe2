"""The provenance of pretrained weights. Needs no torch, so that a run can be read without it."""

import msgspec


class Provenance(msgspec.Struct, frozen=True):
    """The source of a training's initial weights."""

    source: str
    """A package and its version, a hub and its model, a file, or "random"."""
    sha256: str | None = None
    licence: str | None = None
