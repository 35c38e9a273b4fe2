"""The bundle's manifest, `manifest.json`: its structs, and the checks when it is read."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.bundle.appearance import LineMeasure
from heatline.edge.bundle.pooling import IDENTITY, identity_of, top_cells_of
from heatline.edge.colour import COLOUR, Colour
from heatline.edge.errors import BundleError
from heatline.edge.geometry.stitching import HEATMAP_CELL_PX
from heatline.edge.inference.engine import GRAPHS, OPENVINO_GRAPH, Precision

SCHEMA = 13
"""Increases with every change of the manifest; only bundles of this schema are read."""

PRODUCT_TILES = "product_tiles.npz"
"""The file of the features of the product's tiles."""

Positive = Annotated[int, Meta(gt=0)]
Cells = Annotated[int, Meta(gt=0, le=4096)]
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
Share = Annotated[float, Meta(ge=0, lt=1)]
ScoreBy = Literal["quantile", "tail", "margin"]
"""How the score threshold was set for a wanted share, see `heatline.edge.calibration.thresholds.score_threshold`."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Printable = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
"""It stands in logs and on terminals."""
PlainName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
"""A file name without a path: a manifest cannot point outside its bundle."""
CameraOrAll = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}\Z")]
"""A camera's name; empty: all cameras that are not named."""
PictureSide = Annotated[int, Meta(ge=1, le=65535)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Model(_Part, frozen=True):
    """The classifier: its name in heatline, and its source."""

    name: str
    source: str
    parameters: Positive


class Tensor(_Part, frozen=True):
    """One input or output of the graph; null stands for the number of tiles."""

    name: str
    dtype: str
    shape: list[int | None]


class Tensors(_Part, frozen=True):
    """The graph's contract: RGB tiles in, one logit and one map per tile out."""

    tiles: Tensor
    logit: Tensor
    map: Tensor
    features: Tensor | None = None
    """Features of a tile or of its cells, for `heatline.edge.bundle.plausibility`; none: the graph has no such
    output."""
    difference: Tensor | None = None
    """What a tile has beyond its reference, see `heatline.edge.reference.difference`; none: the graph compares tiles
    with no reference."""


class Grid(_Part, frozen=True):
    """How frames are tiled and at which resolution maps are stitched, px."""

    tile_px: Annotated[int, Meta(ge=16, le=4096)] = 224
    overlap_px: Annotated[int, Meta(ge=0, le=4095)] = 2
    heatmap_cell_px: Annotated[int, Meta(ge=1, le=256)] = HEATMAP_CELL_PX
    smoothing_px: Annotated[float, Meta(ge=0, le=256)] = 0.0
    """Standard deviation of the heatmap's smoothing."""


class Map(_Part, frozen=True):
    """The map's method and size, and the identity between the map and the logit."""

    method: str
    hw: tuple[Cells, Cells]
    identity: Annotated[str, Meta(pattern=IDENTITY)] = identity_of(None)

    @property
    def top_cells(self) -> int | None:
        """The logit is the mean of this many highest cells; None: of all."""
        return top_cells_of(self.identity)


Range = tuple[Finite, Finite | None]
"""The lowest and the highest value; none: there is no upper limit."""


Measure = Literal[
    "brightness",
    "sharpness",
    "saturation",
    "shift_x",
    "shift_y",
    "turn",
    "scale",
    "match",
    "score",
    "evidence",
    "cleared",
]
"""What drift compares, see `heatline.edge.drift`."""
QUANTILES = 0.0, 0.05, 0.5, 0.95, 1.0


class Reference(_Part, frozen=True):
    """The calibration frames that drift is measured against, see `heatline.edge.drift`."""

    frames: Annotated[int, Meta(ge=1)]
    """The number of frames."""
    measures: dict[Measure, Annotated[list[Finite], Meta(min_length=5, max_length=5)]]
    """The quantiles `QUANTILES` of the frames' values, by measure: the lowest, 5 %, the median, 95 %, the highest."""
    unwatched: dict[Measure, str] = {}
    """Why a measure is missing."""
    frame_hw: tuple[Positive, Positive] | None = None
    """Size of the frames, px, that are compared with a reference; none: they are not."""


class Areas(_Part, frozen=True):
    """The areas that a plausible frame may have beyond what the product's good frames show."""

    lines: dict[LineMeasure, Finite]
    """The largest value of each measure, see `heatline.edge.bundle.appearance`."""
    frames: Annotated[int, Meta(ge=1)]
    """The number of good frames that the limits come from."""
    cell: Finite | None = None
    """The largest distance of a good cell, see `heatline.edge.bundle.plausibility`; none: cells are not known."""
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    """The largest connected share of the inspected cells that may lie beyond it."""
    groups: Annotated[int, Meta(ge=1)] | None = None
    """The number of groups of the frames."""
    refused: Annotated[int, Meta(ge=0)] = 0
    """The number of groups of which a frame has a larger area, by cells of the other groups."""


class Plausible(_Part, frozen=True):
    """The appearance of a whole frame that shows the product, see `heatline.edge.bundle.plausibility`."""

    frames: Annotated[int, Meta(ge=1)]
    """The number of frames that the ranges come from."""
    height_px: tuple[Positive, Positive]
    width_px: tuple[Positive, Positive]
    brightness: Range
    """Mean grey value, 0 to 255."""
    contrast: Range
    sharpness: Range
    distance: Annotated[float, Meta(ge=0, le=1e9)] | None
    """Largest distance of a frame's features from those of the product's tiles; none: not known."""
    detail: Range | None = None
    areas: Areas | None = None
    """None: areas are not compared."""


class CameraPlausible(_Part, frozen=True):
    """The plausible appearance of one camera's frames, within its region of interest."""

    plausible: Plausible
    roi: list[list[tuple[int, int]]]
    exclude: list[list[tuple[int, int]]]
    """The polygons of the region of interest, (x, y) in px. The ranges hold for this region only."""
    reference: Reference | None = None
    """None: drift of this camera is not watched."""


class Missed(_Part, frozen=True):
    """How many defective frames of one kind were judged GOOD."""

    kind: Printable
    """A class of defects, or a range of sizes."""
    missed: Annotated[int, Meta(ge=0)]
    frames: Annotated[int, Meta(ge=1)]
    by: Literal["class", "size"] | None = None
    """What the kind is; none: not known."""


class Calibration(_Part, frozen=True):
    """Thresholds in logits, and the frames that they come from."""

    score_threshold: Finite
    """A tile whose logit reaches it makes its frame DEFECT."""
    evidence_threshold: Finite
    """Heatmap cells that reach it form regions."""
    background: Finite
    """Median heatmap value of the frames: the cold end of the colour scale."""
    false_reject_per_frame: Share
    """Wanted share of good frames that the score threshold rejects."""
    frames: Annotated[int, Meta(ge=1)]
    """The number of frames that the thresholds come from."""
    frames_are: str
    """A description of these frames."""
    false_reject_at_most: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Upper bound of the rejected share of such frames, with 95 % confidence (Clopper and Pearson)."""
    plausible: Plausible | None = None
    """None: every frame is judged, whatever it shows."""
    plausible_by_camera: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")], CameraPlausible] = {}
    """Replaces `plausible` for cameras that were calibrated separately."""
    groups: Annotated[int, Meta(ge=1)] | None = None
    """The number of groups of the frames, which the bound counts; none: each frame is a group."""
    score_by: ScoreBy | None = None
    """None: not known."""
    coldest_defect: Finite | None = None
    """The logit that at most 5 % of known defective frames stay below, by a model that was not trained on them; none:
    not known."""
    evidence_quantile: Share | None = None
    """The share of all heatmap cells of the frames together that lies below the evidence threshold, which is never
    above the score threshold; none: the same rule set both thresholds, this one by each frame's highest cell."""
    reference: Reference | None = None
    """None: drift is not watched."""
    strong_evidence: Finite | None = None
    """Heatmap cells that reach it make their area a region in any tile of a DEFECT frame; none: regions lie only in
    tiles that reach the score threshold."""
    held_out_rejected: Annotated[int, Meta(ge=0)] | None = None
    """How many of the frames reach a score threshold that other frames set; none: not known."""
    missed: list[Missed] = []
    """Classes and sizes of known defects by a cross-validation of this threshold; empty: not known."""


class Gate(_Part, frozen=True):
    """The differences between the exported graphs and their model on the golden tiles, as shares of the scale."""

    tiles: Positive
    tolerance: float
    largest_difference: dict[str, float]
    map_rounding: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """How far rounding alone can move a golden tile's map; not part of `largest_difference`."""
    maps_moved: Annotated[int, Meta(ge=0)] = 0
    """How many maps differed by more than the tolerance, but no more than rounding can move them."""
    largest_move: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """The largest difference of such a map."""


class Agreement(_Part, frozen=True):
    """The agreement of one precision with the model itself on the validation tiles, in batches of one size."""

    batch: Positive
    logit_difference: Annotated[float, Meta(ge=0, le=1e9)]
    """Largest, logits."""
    flips: Annotated[int, Meta(ge=0)]
    """The number of tiles that fall on the other side of the score threshold."""
    map_correlation: Annotated[float, Meta(ge=-1, le=1)] | None
    """Pearson's, over the cells of all maps together."""
    iou_median: Annotated[float, Meta(ge=0, le=1)] | None
    iou_p5: Annotated[float, Meta(ge=0, le=1)] | None
    """The overlap of the regions over the evidence threshold, on tiles where the model itself finds one; p5: the 5th
    percentile. None: the model finds no region."""
    near_p5: Annotated[float, Meta(ge=0, le=1)] | None = None
    """The 5th percentile of the share of both regions' cells that lie in the other region or beside one of its cells;
    none also in older bundles, which were not judged by it."""


class Attempt(_Part, frozen=True):
    """One attempt to make a precision, and its agreement."""

    how: str
    agreement: list[Agreement]
    missed: list[str]
    """A description of each limit that it misses; empty: it passed."""


class PrecisionGate(_Part, frozen=True):
    """The result of the map gate for one precision."""

    graph: PlainName | None
    """The IR that the engine compiles for it; none: the bundle does not have this precision."""
    reason: str | None
    """Why it is left out, or which limits it misses although it was allowed; none: it passed."""
    attempts: list[Attempt]
    """The graph, or the reason, belongs to the last attempt."""


class MapGate(_Part, frozen=True):
    """The comparison of each precision's verdicts and maps with the model itself, on tiles that did not train it."""

    tiles: Positive
    tiles_are: str
    """A description of these tiles."""
    tiles_with_region: Annotated[int, Meta(ge=0)]
    """The number of tiles where the model itself finds a region over the evidence threshold."""
    tiles_on_threshold: Annotated[int, Meta(ge=0)]
    """The number of tiles whose logit equals the score threshold but for rounding, so that even the model has no
    certain verdict. They do not count as flips."""
    score_threshold: Finite
    """Logits: the threshold by which flips are counted. A later calibration gives the bundle another one."""
    evidence_threshold: Finite
    """Logits: the threshold by which regions are found."""
    limits: dict[Precision, dict[str, float]]
    precisions: dict[Precision, PrecisionGate]


class MapCheck(_Part, frozen=True):
    """How much of good tiles' maps lies in one place."""

    share: Annotated[float, Meta(ge=0, le=1)]
    """The share of the peaks, or of the evidence, in that place."""
    chance: Annotated[float, Meta(ge=0, lt=1)]
    """The place's share of the map's cells."""

    @property
    def beyond_chance(self) -> float:
        """0: as much as by chance, 1: everything. Cohen's kappa, for a share."""
        return (self.share - self.chance) / (1 - self.chance)


class MapChecks(_Part, frozen=True):
    """Whether the map is hot in one place, whatever a tile shows."""

    tiles: Annotated[int, Meta(ge=0)]
    """The number of good tiles, rotated and mirrored in turn, from the validation groups, or from training groups if
    there are none."""
    stuck: MapCheck | None
    """The peaks in the 3x3 cells with most of them. None: too few tiles, or too coarse a map."""
    border: MapCheck | None
    """The evidence in the outermost cells. None as above."""
    warnings: list[str]
    """Sentences for the user, also about a failed check that the user allowed."""


class ProductReference(_Part, frozen=True):
    """The picture of a good part that frames are compared with, see `heatline.edge.reference.reference`."""

    file: PlainName
    frame_hw: tuple[PictureSide, PictureSide]
    """Size of the picture, and of the frames, px."""
    frames: Annotated[int, Meta(ge=1)]
    """The number of frames that it was made from."""
    frames_are: str
    """A description of these frames."""


SCREENING_GRAPH = "screening.xml"
SCREENING_TILES = "product_tiles.screening.npz"


class Screening(_Part, frozen=True):
    """The screening stage, and what held-out tiles show of it, see `heatline.edge.inspection.screening`."""

    clear_below: Finite
    """Logits: a tile whose highest cell, by the small graph, lies below is cleared."""
    score_threshold: Finite
    """The lowest score threshold that it may be used with."""
    detected: Annotated[int, Meta(ge=1)]
    """The number of defects of which a held-out tile reaches that threshold; of each, such a tile runs in full."""
    lost_at_most: Annotated[float, Meta(ge=0, le=1)]
    """Upper bound of the share of such defects of which none does, with 95 % confidence."""
    frames: Annotated[int, Meta(ge=1)]
    """The number of held-out frames that reach it, good ones too; in each, a tile that does so runs in full."""
    frames_lost_at_most: Annotated[float, Meta(ge=0, le=1)]
    cleared: Annotated[float, Meta(ge=0, le=1)]
    """The share of the tiles of held-out good frames that it clears."""
    seen_px: Positive
    """Side to which a tile is reduced, px; at most half of it."""
    map_hw: tuple[Positive, Positive]
    """Cells of the small graph's map."""
    golden: list[Finite]
    """The highest cell of each golden tile, by the small graph."""
    plausible: Plausible
    """What frames look like to the small graph."""


class Manifest(_Part, frozen=True):
    """The content of `manifest.json`. Unknown keys are refused, as a reader cannot apply them."""

    schema: Positive
    name: Printable
    version: Printable
    created_at: str
    made_by: str
    model: Model
    tensors: Tensors
    grid: Grid
    map: Map
    calibration: Calibration
    gate: Gate
    tolerances: dict[Precision, Annotated[float, Meta(gt=0, le=0.5)]]
    """Per precision, the largest difference on the golden tiles that the target may have, as a share of the scale."""
    provenance: dict[str, Any]
    """The origin of data and weights, and how the model was trained."""
    files: dict[PlainName, Sha256]
    colour: Colour = COLOUR
    map_gate: MapGate | None = None
    """Which precisions the bundle has, and why; none: only f32."""
    map_checks: MapChecks | None = None
    """None: the map was not checked."""
    references: dict[CameraOrAll, ProductReference] = {}
    """The references that frames are compared with, by camera. Empty: a line refuses a graph that compares."""
    screening: Screening | None = None
    """None: every tile runs in full."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The bundle's precisions."""
        return tuple(precision for precision in GRAPHS if self.graph_for(precision) is not None)

    def graph_for(self, precision: Precision) -> str | None:
        """Return the IR that is compiled for a precision; None if the bundle does not have this precision."""
        if self.map_gate is None:
            return OPENVINO_GRAPH if precision == "f32" else None
        gate = self.map_gate.precisions.get(precision)
        return None if gate is None else gate.graph

    def fails(self, precision: Precision) -> str | None:
        """Return which limits of the map gate a precision of the bundle misses; None if it misses none."""
        gate = None if self.map_gate is None else self.map_gate.precisions.get(precision)
        return None if gate is None or gate.graph is None else gate.reason

    def why_without(self, precision: Precision) -> str:
        """Return why the bundle does not have a precision."""
        if self.map_gate is None:
            return "it was exported in f32 only"
        gate = self.map_gate.precisions.get(precision)
        return "its export did not try it" if gate is None or gate.reason is None else gate.reason


def product_tiles_of(camera: str) -> str:
    """Return the name of the file with the features of the product's tiles for one camera."""
    return f"product_tiles.{camera}.npz"


def product_picture_of(camera: str) -> str:
    """Return the name of the file with the reference that frames of one camera are compared with; empty: of all."""
    return f"product.{camera}.png" if camera else "product.png"


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Decode a manifest; raise a BundleError if the data is none, or has another schema."""
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema != SCHEMA:
            remedy = "install a newer heatline" if schema > SCHEMA else "export the bundle again"
            raise BundleError(f"{where} has bundle schema {schema}, this heatline reads {SCHEMA}; {remedy}")
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not a bundle manifest: {error}; export the bundle again") from error


class _SchemaOnly(msgspec.Struct):
    schema: int


NEARLY_ALL = 0.8
"""If at least this share of the frames of a kind is missed, the kind passes."""


def passes(missed: int, frames: int) -> bool:
    """Whether a kind of defects passes, of whose frames so many are missed."""
    return missed >= NEARLY_ALL * frames


def describe_missed(kinds: Sequence[Missed]) -> str:
    """Describe the kinds, classes before sizes; empty if there are none.

    >>> describe_missed([Missed("crack", 2, 9, "class"), Missed("below 16x16 px", 3, 4, "size")])
    'by class: crack 2 of 9; by size: below 16x16 px 3 of 4'
    """
    of = {by: [kind for kind in kinds if kind.by == by] for by in (None, "class", "size")}
    return "; ".join((f"by {by}: " if by else "") + _list(found) for by, found in of.items() if found)


def describe_passing(kinds: Sequence[Missed]) -> str:
    """Describe the kinds that pass; empty if none does."""
    return _list([kind for kind in kinds if passes(kind.missed, kind.frames)])


def _list(kinds: Sequence[Missed]) -> str:
    return ", ".join(f"{kind.kind} {kind.missed} of {kind.frames}" for kind in kinds)
