"""What a bundle says of itself: `manifest.json`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.bundle.pooling import IDENTITY, identity_of, top_cells_of
from edge.colour import COLOUR
from edge.errors import BundleError
from edge.geometry.stitching import HEATMAP_CELL_PX
from edge.inference.engine import GRAPHS, OPENVINO_GRAPH, Precision, weights_of

SCHEMA = 6
"""Counts up when an older reader could misread a bundle; readers refuse what is newer than they are."""
FIRST_WITH_PRECISIONS = 3
"""Before it a tolerance said nothing of what a bundle has."""

PRODUCT_TILES = "product_tiles.npz"
"""The file of the features of the product's tiles."""
MOST_FEATURES = 4096

Positive = Annotated[int, Meta(gt=0)]
Cells = Annotated[int, Meta(gt=0, le=4096)]
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rule = Literal["false-reject", "study"]
"""What sets the thresholds: a wanted share of good frames that may be rejected. The study's probability of 0.5 is that
of bundles which were calibrated by an older heatline."""
ScoreBy = Literal["quantile", "tail", "margin"]
"""What set the score threshold for a wanted share, see `edge.calibration.thresholds.score_threshold`."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
PlainName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
"""A file name without a path: a manifest cannot point outside its bundle."""


CameraName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Model(_Part, frozen=True):
    """The classifier: its name here and what it was made from."""

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
    """What a tile shows, for `edge.bundle.plausibility`; none: the graph does not give it, as before schema 5."""


class Grid(_Part, frozen=True):
    """How frames are tiled and at which resolution maps are stitched, px."""

    tile_px: Annotated[int, Meta(ge=16, le=4096)] = 224
    overlap_px: Annotated[int, Meta(ge=0, le=4095)] = 2
    heatmap_cell_px: Annotated[int, Meta(ge=1, le=256)] = HEATMAP_CELL_PX
    smoothing_px: Annotated[float, Meta(ge=0, le=256)] = 0.0
    """Standard deviation of the heatmap's smoothing."""


class Map(_Part, frozen=True):
    """What the map is and which identity holds between it and the logit."""

    method: str
    hw: tuple[Cells, Cells]
    identity: Annotated[str, Meta(pattern=IDENTITY)] = identity_of(None)

    @property
    def top_cells(self) -> int | None:
        """How many of the highest cells the logit is the mean of; None: all."""
        return top_cells_of(self.identity)


Range = tuple[Finite, Finite | None]
"""The lowest and the highest; none: there is no highest."""


class Plausible(_Part, frozen=True):
    """What a frame looks like as a whole if it shows the product, see `edge.bundle.plausibility`."""

    frames: Annotated[int, Meta(ge=1)]
    """Those that it comes from."""
    height_px: tuple[Positive, Positive]
    width_px: tuple[Positive, Positive]
    brightness: Range
    """Mean grey value, 0 to 255."""
    contrast: Range
    sharpness: Range
    distance: Annotated[float, Meta(ge=0, le=1e9)] | None
    """Most, of the features of a frame's tiles from those of the product's; none: not known."""


class CameraPlausible(_Part, frozen=True):
    """What is plausible of one camera's frames, within its region of interest."""

    plausible: Plausible
    roi: list[list[tuple[int, int]]]
    exclude: list[list[tuple[int, int]]]
    """The area's polygons, (x, y) in px: of another area the bounds say nothing."""


class Calibration(_Part, frozen=True):
    """Thresholds in logits, and what they rest on."""

    score_threshold: Finite
    """A tile whose logit reaches it makes its frame DEFECT."""
    evidence_threshold: Finite
    """Heatmap cells that reach it form regions."""
    background: Finite
    """Median heatmap value of the frames below: the cold end of the colour scale."""
    false_reject_per_frame: Share | None
    """Wanted share of good frames that the score threshold rejects; none where another rule set it."""
    frames: Annotated[int, Meta(ge=1)]
    """How many frames the thresholds come from."""
    frames_are: str
    """Which frames they were, in words."""
    rule: Rule = "false-reject"
    """What set the thresholds."""
    rejected: Annotated[int, Meta(ge=0)] | None = None
    """How many of the frames reach the score threshold; none: not told, as before schema 2."""
    false_reject_at_most: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Upper bound of the share of such frames that is rejected, with 95 % confidence (Clopper and Pearson)."""
    plausible: Plausible | None = None
    """None: a frame is judged whatever it shows, as before schema 5."""
    plausible_by_camera: dict[CameraName, CameraPlausible] = {}
    """Instead of `plausible`, for cameras that were calibrated by themselves; empty before schema 6."""
    groups: Annotated[int, Meta(ge=1)] | None = None
    """How many groups they are of, which the bound counts; none: each is one."""
    score_by: ScoreBy | None = None
    """None: another rule set it, or the quantile, as before schema 5."""
    coldest_defect: Finite | None = None
    """Logit that at most 5 % of known defective frames stay below, by a model that was not trained on them; none: not
    known."""
    evidence_quantile: Share | None = None
    """Of all heatmap cells of the frames together, the share below the evidence threshold, which is never above the
    score threshold; none: the same rule set both, the evidence threshold by each frame's highest cell."""


class Gate(_Part, frozen=True):
    """How far the exported graphs were from the model they came from, on the golden tiles, as shares of the scale."""

    tiles: Positive
    tolerance: float
    largest_difference: dict[str, float]
    map_rounding: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """By how much of the scale rounding alone can move a golden tile's map, which is counted apart."""
    maps_moved: Annotated[int, Meta(ge=0)] = 0
    """How many maps were off by more than the tolerance, within what rounding can move them."""
    largest_move: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """How far the farthest was off in all."""


class Agreement(_Part, frozen=True):
    """How far one precision is from the model itself over the validation tiles, in batches of one size."""

    batch: Positive
    logit_difference: Annotated[float, Meta(ge=0, le=1e9)]
    """Largest, logits."""
    flips: Annotated[int, Meta(ge=0)]
    """Tiles that fall on the other side of the score threshold."""
    map_correlation: Annotated[float, Meta(ge=-1, le=1)] | None
    """Pearson's, over the cells of all maps together."""
    iou_median: Annotated[float, Meta(ge=0, le=1)] | None
    iou_p5: Annotated[float, Meta(ge=0, le=1)] | None
    """Of the regions over the evidence threshold, over the tiles where the model itself finds one; p5: the 5th
    percentile. None where it finds one nowhere."""
    near_p5: Annotated[float, Meta(ge=0, le=1)] | None = None
    """The 5th percentile of the share of cells of both regions that lie in the other, or beside a cell of it; none too
    in bundles that were not judged by it."""


class Attempt(_Part, frozen=True):
    """One way to make a precision, and how it agrees."""

    how: str
    agreement: list[Agreement]
    missed: list[str]
    """The limits that it misses, in words; none: it passed."""


class PrecisionGate(_Part, frozen=True):
    """What came of one precision."""

    graph: PlainName | None
    """The IR that the engine compiles for it; none: it is left out of the bundle."""
    reason: str | None
    """Why it is left out, or what it misses though it was let in; none: it passed."""
    attempts: list[Attempt]
    """The last is the one that the reason, or the graph, is of."""


class MapGate(_Part, frozen=True):
    """Each precision held against the model itself, its maps too, on tiles that did not teach it."""

    tiles: Positive
    tiles_are: str
    """Which tiles they were, in words."""
    tiles_with_region: Annotated[int, Meta(ge=0)]
    """Those where the model itself finds a region over the evidence threshold."""
    tiles_on_threshold: Annotated[int, Meta(ge=0)]
    """Those whose logit is the score threshold but for rounding, so that the model itself does not settle the verdict.
    They are not counted as flips."""
    score_threshold: Finite
    """Logits: what flips are counted by. A bundle that was calibrated anew since has another."""
    evidence_threshold: Finite
    """Logits: what regions are found by."""
    limits: dict[Precision, dict[str, float]]
    precisions: dict[Precision, PrecisionGate]


class MapCheck(_Part, frozen=True):
    """How much of good tiles' maps lies in one place."""

    share: Annotated[float, Meta(ge=0, le=1)]
    """Of the peaks, or of the evidence, that lies there."""
    chance: Annotated[float, Meta(ge=0, lt=1)]
    """The place's share of the map."""

    @property
    def beyond_chance(self) -> float:
        """0: as much as chance puts there, 1: all. Cohen's kappa, for a share."""
        return (self.share - self.chance) / (1 - self.chance)


class MapChecks(_Part, frozen=True):
    """Whether the map is hot in one place whatever a tile shows."""

    tiles: Annotated[int, Meta(ge=0)]
    """Good tiles, each turned another way: of the validation groups, or of training groups where there are none."""
    stuck: MapCheck | None
    """Of the peaks, in the 3x3 cells that have most of them. None: too few tiles, or too coarse a map."""
    border: MapCheck | None
    """Of the evidence, in the outermost cells. None as above."""
    warnings: list[str]
    """What a user should know of them, in sentences; also what a user let in though it is refused."""


class Manifest(_Part, frozen=True):
    """All of `manifest.json`. Unknown keys are refused: what a reader does not know it cannot honour."""

    schema: Positive
    name: str
    version: str
    created_at: str
    made_by: str
    model: Model
    tensors: Tensors
    grid: Grid
    map: Map
    calibration: Calibration
    gate: Gate
    tolerances: dict[Precision, Annotated[float, Meta(gt=0, le=0.5)]]
    """Per precision, how far golden tiles may be off on the target, as a share of the scale."""
    provenance: dict[str, Any]
    """Where data and weights come from, and how the model was trained."""
    files: dict[PlainName, Sha256]
    colour: str = COLOUR
    map_gate: MapGate | None = None
    """Which precisions the bundle has, and why; none: f32 alone, as before schema 3."""
    map_checks: MapChecks | None = None
    """None: the map was not checked, as before schema 4."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that the bundle has."""
        return tuple(precision for precision in GRAPHS if self.graph_for(precision) is not None)

    def graph_for(self, precision: Precision) -> str | None:
        """The IR that is compiled for a precision; none: the bundle has not got it."""
        if self.map_gate is None:
            return OPENVINO_GRAPH if precision == "f32" else None
        gate = self.map_gate.precisions.get(precision)
        return None if gate is None else gate.graph

    def fails(self, precision: Precision) -> str | None:
        """What a precision that the bundle has misses of the map gate; none: nothing."""
        gate = None if self.map_gate is None else self.map_gate.precisions.get(precision)
        return None if gate is None or gate.graph is None else gate.reason

    def why_without(self, precision: Precision) -> str:
        """Why the bundle has not got a precision."""
        if self.map_gate is None:
            return "it was exported in f32 alone"
        gate = self.map_gate.precisions.get(precision)
        return "its export did not try it" if gate is None or gate.reason is None else gate.reason


def product_tiles_of(camera: str) -> str:
    """The file of the features of the product's tiles as one camera sees them."""
    return f"product_tiles.{camera}.npz"


def decode_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`.

    Raises:
        BundleError: it is no manifest, of a newer schema, or says what cannot be.
    """
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema > SCHEMA:
            raise BundleError(
                f"{where} has bundle schema {schema}, this heatline reads up to {SCHEMA}; install a newer heatline"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is no bundle manifest: {error}; export the bundle again") from error
    if manifest.colour != COLOUR:
        raise BundleError(
            f"{where} was made for colour {manifest.colour!r}, this heatline has {COLOUR!r}; export it again"
        )
    tile = [None, manifest.grid.tile_px, manifest.grid.tile_px, 3]
    expected = {
        "tiles": Tensor("tiles", "uint8", tile),
        "logit": Tensor("logit", "float32", [None]),
        "map": Tensor("map", "float32", [None, *manifest.map.hw]),
    }
    for name, tensor in expected.items():
        came = getattr(manifest.tensors, name)
        if came != tensor:
            raise BundleError(f"{where} declares {name} as {came}, expected {tensor}; export the bundle again")
    _check_features(manifest, where)
    if "f32" not in manifest.tolerances:
        raise BundleError(f"{where} states no tolerance for f32; every bundle has one; export the bundle again")
    _check_precisions(manifest, where)
    if manifest.grid.overlap_px >= manifest.grid.tile_px:
        raise BundleError(
            f"{where} has an overlap of {manifest.grid.overlap_px} px for tiles of {manifest.grid.tile_px} px; "
            "expected less than a tile; export the bundle again"
        )
    if manifest.grid.heatmap_cell_px > manifest.grid.tile_px:
        raise BundleError(
            f"{where} has heatmap cells of {manifest.grid.heatmap_cell_px} px for tiles of {manifest.grid.tile_px} px; "
            "expected at most a tile; export the bundle again"
        )
    height, width = manifest.map.hw
    if (manifest.map.top_cells or 0) > height * width:
        raise BundleError(
            f"{where} states {manifest.map.identity!r} for maps of {height}x{width} cells; expected at most "
            f"{height * width} cells; export the bundle again"
        )
    if max(manifest.map.hw) > manifest.grid.tile_px:
        raise BundleError(
            f"{where} has maps of {manifest.map.hw[0]}x{manifest.map.hw[1]} cells for tiles of "
            f"{manifest.grid.tile_px} px; expected at most a cell per px; export the bundle again"
        )
    return manifest


def _check_features(manifest: Manifest, where: str) -> None:
    """What is plausible hangs together with what the graph gives and with the file that says it.

    Raises:
        BundleError: it does not.
    """
    tensor, plausible = manifest.tensors.features, manifest.calibration.plausible
    if tensor is not None and (
        tensor.name != "features"
        or tensor.dtype != "float32"
        or len(tensor.shape) != 2
        or tensor.shape[0] is not None
        or not 1 <= (tensor.shape[1] or 0) <= MOST_FEATURES
    ):
        raise BundleError(
            f"{where} declares features as {tensor}, expected float32 of shape [null, 1 to {MOST_FEATURES}]; export it "
            "again"
        )
    by_camera = manifest.calibration.plausible_by_camera
    stated = {product_tiles_of(name): each.plausible for name, each in by_camera.items()}
    for name, bounds in {**stated, PRODUCT_TILES: plausible}.items():
        if bounds is not None and bounds.distance is not None and (tensor is None or name not in manifest.files):
            raise BundleError(
                f"{where} states a plausible distance of features, and has no {name} or no features; export the "
                "bundle again"
            )


def _check_precisions(manifest: Manifest, where: str) -> None:
    """Of each precision that a manifest has, all is there; of each that it has not, why.

    Raises:
        BundleError: something is missing, or is of another precision.
    """
    gates = {} if manifest.map_gate is None else manifest.map_gate.precisions
    if "f32" not in manifest.precisions:
        raise BundleError(f"{where} leaves out f32; every bundle has it; export the bundle again")
    for precision, gate in gates.items():
        if gate.graph is None:
            if not (gate.reason or "").strip():
                raise BundleError(f"{where} leaves out {precision} and gives no reason; export the bundle again")
            continue
        if gate.graph not in GRAPHS[precision]:
            raise BundleError(
                f"{where} names {gate.graph} as the graph for {precision}, expected "
                f"{' or '.join(GRAPHS[precision])}; export the bundle again"
            )
        for name in (gate.graph, weights_of(gate.graph)):
            if name not in manifest.files:
                raise BundleError(f"{where} lists no {name}, which {precision} needs; export the bundle again")
        if precision not in manifest.tolerances:
            raise BundleError(f"{where} states no tolerance for {precision}, which it has; export the bundle again")
    for precision in manifest.tolerances:
        if precision not in manifest.precisions and manifest.schema >= FIRST_WITH_PRECISIONS:
            raise BundleError(f"{where} states a tolerance for {precision}, which it has not; export the bundle again")


class _SchemaOnly(msgspec.Struct):
    schema: int
