"""What an evaluation leaves behind: `evaluation.json`, and pictures beside it. Reports are made from these alone."""

from pathlib import Path
from typing import Literal

import msgspec

from edge.bundle import Calibration
from edge.errors import InputError
from edge.util.text import encode_json
from train.evaluation.figures import Figures
from train.evaluation.sweep import SweepFigures
from train.files import write_atomically

SCHEMA = 2
FILE = "evaluation.json"

Kind = Literal["escaped", "rejected", "example", "missed", "false", "fusions", "ratios"]


class GalleryItem(msgspec.Struct, frozen=True):
    """A picture for the report, a file beside `evaluation.json`.

    `escaped` and `rejected` show a whole frame twice: with its truth outlined, and under its heatmap. `example`,
    `missed` and `false` show three squares side by side: the tile, the tile with its truth outlined, the tile under its
    map. `fusions` shows the tile and its rollout by min, mean and max fusion at one discard ratio, `ratios` by mean
    fusion at several ratios.
    """

    kind: Kind
    """`escaped`: the defective frames of the lowest scores. `rejected`: the good frames of the highest scores.
    `example`: tiles chosen by their names, the same for every model. `missed`: the defective tiles of the lowest
    logits. `false`: the good tiles of the highest logits. A threshold decides which of them are failures."""
    file: str
    """Relative to the folder of `evaluation.json`."""
    image: str
    tile_yx: tuple[int, int] | None
    """Top left corner, px; None of a whole frame."""
    logit: float
    """Of the tile; of a frame, its score."""
    caption: str
    """What the picture shows, from left to right or from top to bottom."""


class FrameAnswer(msgspec.Struct, frozen=True):
    """What the line says of one frame. Its verdict is DEFECT where the score reaches the score threshold."""

    image: str
    """Path below the folder of pictures."""
    group: str | None
    defective: bool
    """By its label."""
    score: float
    """Highest logit of its tiles."""
    defects: int | None = None
    """By the first truth; None, as the next two, where nothing says where the frame is defective."""
    hit: int | None = None
    """Of its defects, at the calibrated thresholds."""
    false_regions: int | None = None


class ImplausibleFrame(msgspec.Struct, frozen=True):
    """A frame that the line gives no verdict, as it does not show the product."""

    image: str
    """Path below the folder of pictures."""
    group: str | None
    defective: bool
    """By its label."""
    why: str
    """In words, with the numbers."""


class TruthEvaluation(msgspec.Struct, frozen=True):
    """Against one truth."""

    truth: str
    """masks, derived_masks, polygons, coco, boxes or labels."""
    figures: Figures
    intervals: dict[str, tuple[float, float]]
    """95 % intervals by dotted name, as `study.f1`, from a bootstrap over groups; empty where there are too few."""
    intervals_are: str
    """In words: over how many groups, or why there are none."""
    sweep: SweepFigures | None
    """Of ViTs evaluated from their run: all fusions and discard ratios."""
    gallery: list[GalleryItem]


class Told(msgspec.Struct, frozen=True):
    """What was evaluated, and on what."""

    name: str
    """How reports call it: the folder's name."""
    path: str
    kind: Literal["run", "bundle"]
    model: str
    family: Literal["cnn", "vit"]
    method: str
    """How the map is made: `cam`, `rollout-max`, ..."""
    map_hw: tuple[int, int]
    engine: str
    """torch, openvino or onnxruntime, with its precision."""
    weights: str
    """Where the training's first weights came from."""
    recipe: str
    """In words, with its steps and batch."""
    steps: int | None
    seconds: float | None
    """Of training."""
    taught_by: str
    """The truth that its training tiles were cut from, or that whole pictures taught it."""
    data: str
    """Name of the folder of pictures."""
    part: str
    """test, val, train, or which groups in words."""
    groups: list[str]
    pictures: int
    """How many the figures are of: those that get a verdict."""
    lr: float | None = None
    """The highest learning rate."""
    val_loss: float | None = None
    """On the validation groups at the checkpoint that was kept."""
    val_accuracy: float | None = None
    """The same, of tiles at probability 0.5."""


class Evaluation(msgspec.Struct, frozen=True):
    """`evaluation.json`."""

    told: Told
    calibration: Calibration
    truths: list[TruthEvaluation]
    frames: list[FrameAnswer]
    """In the order of the pictures, without `implausible`."""
    gallery: list[GalleryItem]
    """Of whole frames, the worst of each kind first."""
    rests_on: str
    """What the figures rest on, as `the test groups (5 groups, 12 frames)`, or `5-fold cross-validation over 38
    groups`."""
    warnings: list[str] = []
    """Sentences that a reader must see before any figure."""
    good_stand_ins: list[float] = []
    """Where no frame is good: the scores of defective frames without the tiles that a truth touches, in their place."""
    implausible: list[ImplausibleFrame] = []
    """Frames that get no verdict; no figure counts them."""
    schema: int = SCHEMA


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write `evaluation.json` into a folder, whole or not at all."""
    text = msgspec.json.format(encode_json(evaluation)) + b"\n"
    file = folder / FILE
    write_atomically(file, lambda place: place.write_bytes(text))
    return file


def read_evaluation(folder: Path) -> Evaluation:
    """What `write_evaluation` wrote.

    Raises:
        InputError: there is none, or it is not of this version.
    """
    try:
        read = msgspec.json.decode((folder / FILE).read_bytes(), type=Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{folder / FILE} cannot be read ({error}); evaluate again") from error
    if read.schema != SCHEMA:
        raise InputError(f"{folder / FILE} has schema {read.schema}, this heatline reads {SCHEMA}; evaluate again")
    return read
