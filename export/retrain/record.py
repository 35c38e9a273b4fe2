"""What the provenance of a retrained bundle records: which reviewed frames trained it, and which did not."""

import msgspec


class Retraining(msgspec.Struct, frozen=True, kw_only=True):
    """`provenance.retraining`. Frames are named by the sha256 of their pixels."""

    parent: dict[str, str] = {}
    """Name, version and digest of the old bundle."""
    trained: list[str] = []
    """The reviewed frames that it was trained on, those of earlier retrainings included."""
    groups: list[str] = []
    """The groups of these frames: their parts, or for a frame of no known part the frame itself. Later frames of them
    cannot be held out, also if the frames themselves are gone."""
    held_out: list[str] = []
    """The reviewed frames by which it was compared with the old bundle."""
    appearance_of_line: bool = False
    """Whether its plausible appearance and its reference of drift are those of a calibration on the line."""
