"""The whole way of a frame through the inspector, which the stages from tiling to judging make up."""

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.inspection.verdict import Judgement

INSPECTED = ("tile", "infer", "stitch", "judge")
"""The stages that it consists of."""


class Whole(Stage):
    """A frame by itself, from `Inspector.start` to the end of `Inspector.finish`.

    Args:
        defects: whether a tenth of the tiles is defective, or none.
    """

    name = "whole"

    def __init__(self, prepared: Prepared, *, defects: bool) -> None:
        self.variant = "defects" if defects else "good"
        self._prepared, self._setup = prepared, prepared.defective if defects else prepared.good
        self.expected = prepared.judgement(self._setup)
        self._frame = prepared.frame()
        self._judgement: Judgement | None = None

    def run(self) -> None:
        inspector = self._setup.inspector
        self._judgement = inspector.finish(inspector.start(self._frame))

    def check(self) -> None:
        judgement, self._judgement = self._judgement, None
        self.require(
            judgement is not None and same(judgement, self.expected), "that the frame is judged as it was before"
        )

    def moved(self) -> Moved:
        assert self._judgement is not None
        return Moved(self._prepared.picture.nbytes, self._judgement.heatmap.nbytes)

    @property
    def regions(self) -> int:
        """How many the frame has."""
        return len(self.expected.regions)


def same(one: Judgement, other: Judgement) -> bool:
    """Whether two judgements of one frame agree: its answers are the same to the last bit, as its tiles are."""
    return one.verdict == other.verdict and one.regions == other.regions
