"""What the provenance of a retrained bundle records: which reviewed frames trained it, and which did not."""

import msgspec


class Retraining(msgspec.Struct, frozen=True, kw_only=True):
    """`provenance.retraining`. Frames are named by the sha256 of their pixels."""

    parent: dict[str, str] = {}
    """Name, version and digest of the old bundle."""
    trained: list[str] = []
    """The reviewed frames that it was trained on, those of earlier retrainings included."""
    held_out: list[str] = []
    """The reviewed frames by which it was compared with the old bundle."""
