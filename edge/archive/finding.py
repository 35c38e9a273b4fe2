"""What a bundle found in one picture: a row of its verdicts, as far as comparison and report need it."""

from typing import Literal

import msgspec
import pyarrow as pa

from heatline.edge.wire.events import Verdict

Label = Literal["good", "defective"]
Box = tuple[int, int, int, int]


class Finding(msgspec.Struct, frozen=True):
    """What a bundle found in one picture. Scores and thresholds are in logits, boxes in px of the picture."""

    number: int
    picture: str
    group: str
    label: Label | None
    content: str | None
    """Hash of the file's bytes; None: the file could not be read."""
    verdict: Verdict
    reason: str | None
    detail: str | None
    score: float | None
    score_threshold: float
    boxes: tuple[Box, ...] = ()
    """Left, top, right and bottom of each region."""

    @property
    def margin(self) -> float | None:
        """The score minus its threshold: DEFECT from 0. None: there is no verdict."""
        return None if self.score is None else self.score - self.score_threshold

    @property
    def is_escape(self) -> bool:
        return self.label == "defective" and self.verdict == "GOOD"

    @property
    def is_false_reject(self) -> bool:
        return self.label == "good" and self.verdict == "DEFECT"

    @property
    def is_mistake(self) -> bool:
        """Whether the label contradicts the verdict. NO_VERDICT is not a mistake."""
        return self.is_escape or self.is_false_reject

    @property
    def is_right(self) -> bool:
        """Whether the label says so: false without a label or a verdict."""
        return (self.label, self.verdict) in (("good", "GOOD"), ("defective", "DEFECT"))


COLUMNS = [*Finding.__struct_fields__[:-1], "regions"]


def findings_of(part: pa.Table) -> list[Finding]:
    """Return the findings in a part of `verdicts/`, in the order of its rows."""
    columns = [part.column(name).to_pylist() for name in COLUMNS[:-1]]
    boxes = [tuple(tuple(each["box_xyxy"]) for each in regions or ()) for regions in part.column("regions").to_pylist()]
    return [Finding(*values) for values in zip(*columns, boxes, strict=True)]
