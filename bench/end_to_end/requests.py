"""What the bare engine's process is asked, and answers. Imports no engine: whoever asks must not map its libraries."""

import msgspec

from bench.engine_settings import Settings
from edge.inference import Precision


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process works on."""

    bundle: str
    precision: Precision
    pictures: str
    """Folder."""
    defective: float
    """Share of the pictures that are to be judged DEFECT."""


class Look(msgspec.Struct, frozen=True, tag=True):
    """Inspect every picture: what must a line say of it?"""


class Choose(msgspec.Struct, frozen=True, tag=True):
    """Try all settings in turns, so long each, and use the fastest from then on."""

    seconds: float
    rounds: int


class Saturate(msgspec.Struct, frozen=True, tag=True):
    """Infer for so long, with a request more than streams."""

    seconds: float


class ChooseForFrames(msgspec.Struct, frozen=True, tag=True):
    """Try all settings in turns on a frame's tiles, and use from then on those that have one ready soonest."""

    rounds: int


class OneFrame(msgspec.Struct, frozen=True, tag=True):
    """Infer the tiles of a frame: how long does it take by itself?"""


Request = Look | Choose | Saturate | ChooseForFrames | OneFrame


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a line must say of its pictures."""

    score_threshold: float
    tolerance: float
    """Logits by which a frame score may be off: other batches and streams round otherwise."""
    tiles: int
    """Of a frame."""
    frame_hw: tuple[int, int]
    scores: dict[str, float]
    """Frame scores by the name of the picture, as events tell it."""
    evidence: dict[str, float]
    """The highest evidence of any region, of the pictures that are DEFECT, by their names."""
    evidence_tolerance: float
    """Logits by which that may be off."""
    heatmap_hw: tuple[int, int]
    """Cells."""
    picture_bytes: int
    """Of all of them, as they lie in a camera's memory."""

    @property
    def defective(self) -> float:
        """Share of the pictures that are DEFECT."""
        return sum(score >= self.score_threshold for score in self.scores.values()) / len(self.scores)


class Answer(msgspec.Struct, frozen=True):
    """What came of a request."""

    error: str | None = None
    """In one sentence; then nothing else counts."""
    expected: Expected | None = None
    tiles_per_s: float = 0.0
    settings: Settings | None = None
    tried: list[tuple[Settings, float]] = []
    """Tiles a second, or ms a frame."""
    frame_ms: float = 0.0
