"""The configuration of a training: `heatline.train.compose` composes it, these structs check it.

The site makes its tables of keys from these structs.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError

Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Strength = Annotated[float, Meta(ge=0, le=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SplitConfig(Part, frozen=True, kw_only=True):
    group: str
    """Column of `labels.csv` that names the group; default: `group`."""
    pattern: str | None
    """Replaces the column: a regular expression on the file name; its first parenthesis is the group."""
    val: list[str]
    """Groups that choose the best checkpoint."""
    test: list[str]
    """Groups that training leaves out."""
    fractions: list[float]
    """Shares of groups for train, val, test, if none is named."""


class TilesConfig(Part, frozen=True, kw_only=True):
    tile_px: Annotated[int, Meta(ge=32, le=4096)]
    """Side of a tile, px."""
    overlap_px: Natural
    """Overlap of neighbouring tiles, px."""
    defective_share: Annotated[float, Meta(ge=0, lt=1)]
    """A tile is defective if more than this share of its area is."""


class ModelConfig(Part, frozen=True, kw_only=True, tag_field="family"):
    name: str
    """The model's name."""
    timm: str
    """The timm model, with its pretrained tag."""
    weights: str
    """"imagenet", "none" for a random start, or a file."""

    @property
    def family(self) -> str:
        """The model's family: "cnn" or "vit"."""
        return str(self.__struct_config__.tag)


class Provenance(msgspec.Struct, frozen=True):
    """The source of a training's initial weights."""

    source: str
    """A package and its version, a hub and its model, a file, or "random"."""
    sha256: str | None = None
    licence: str | None = None


class CnnConfig(ModelConfig, frozen=True, kw_only=True, tag="cnn"):
    """A CNN with a class activation map."""

    stride: Positive | None
    """Input px per map cell: features end at the last stage of this stride. None: the network's last stride."""
    head: Literal["cam", "dense"] = "cam"
    """cam: one layer on features of `stride`. dense: a head on those of strides 4, 8 and 16, for recipe=heatline."""
    width: Positive = 32
    """Hidden channels of a dense head."""


class VitConfig(ModelConfig, frozen=True, kw_only=True, tag="vit"):
    """A plain ViT with attention rollout."""

    fusion: Literal["min", "mean", "max"]
    """How the attention of a layer's heads is fused."""
    discard_ratio: Annotated[float, Meta(ge=0, lt=1)]
    """Share of the lowest entries of each layer's fused attention that are set to zero."""


class AugmentConfig(Part, frozen=True, kw_only=True):
    """Augmentation of each training tile; strengths are shares of the full range."""

    flips: bool
    """Mirror tiles."""
    rotate: bool
    """Rotate them by 0, 90, 180 or 270 degrees."""
    brightness: Strength
    """Strength, as a share of the full range."""
    contrast: Strength
    """Strength, likewise."""
    gain: Strength
    """Strength per channel, likewise."""
    noise: Strength
    """Highest standard deviation; applied to a quarter of the tiles."""
    blur: bool
    """A light blur, in a quarter of the tiles."""


class AnyRecipe(Part, frozen=True, kw_only=True, tag_field="kind"):
    """What all recipes have."""

    name: str
    """The recipe's name."""
    lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate."""
    weight_decay: Annotated[float, Meta(ge=0)]
    """Weight decay."""
    warmup: Strength
    """Share of the steps over which a cosine schedule rises."""
    jitter_px: Natural
    """Highest distance of a tile from its place in the grid, px."""
    augment: AugmentConfig


class RecipeConfig(AnyRecipe, frozen=True, kw_only=True, tag="finetune"):
    """How the whole network is trained."""

    epochs: Positive | None
    """Number of passes over the training tiles."""
    steps: Positive | None
    """Instead of epochs, the number of steps; one step is one batch. With `heatline`, None: three per ten tiles, at
    least 400 and at most 9,000."""
    validate_every: Positive | None
    """Steps between validations; None: an epoch. A validation always follows the last step."""
    patience: Positive | None
    """Training ends early after this many validations in a row without a better checkpoint; None: never."""
    select: Literal["average_precision", "accuracy"]
    """`average_precision` or `accuracy` on the validation groups: chooses the best checkpoint."""
    batch: Annotated[int, Meta(ge=2)]
    """Tiles per step."""
    optimiser: Literal["adamw", "adam"]
    """`adamw` or `adam`."""
    lr_interval: tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]
    """Interval in which a search looks for the learning rate."""
    schedule: Literal["cosine", "plateau"]
    """"cosine": up over the warm-up, then down to zero. "plateau": a tenth whenever validation loss stops falling."""
    defective_share_of_batch: Share | None
    """Defective share of each batch; None: tiles come in their natural proportion."""
    skip_ambiguous: bool
    """Whether training leaves out ambiguous tiles: those with too few defective px to be defective."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"recipe.epochs is {self.epochs} and recipe.steps is {self.steps}; leave one of them out, or set it "
                "to null"
            )


class CopiesConfig(Part, frozen=True, kw_only=True):
    """Number of augmented copies that are trained on in addition to the tiles."""

    defective: Natural
    """Copies of each tile whose defects are marked."""
    most: Natural
    """Highest number of copies of each kind: of defective tiles, of good tiles, and with synthetic defects."""


class DenseRecipeConfig(AnyRecipe, frozen=True, kw_only=True, tag="dense"):
    """How a dense head is trained on the features of a frozen trunk, and cross-validated; its schedule is a cosine."""

    folds: Annotated[int, Meta(ge=1, le=20)]
    """Folds of the cross-validation; fewer if there are fewer groups."""
    steps: Positive | None
    """Number of steps; None: it grows with the number of tiles, see `steps_for`."""
    located: Positive
    """Tiles per step whose defects are marked."""
    good: Positive
    """Good tiles per step."""
    synthetic: Natural
    """Good tiles with a synthetic defect per step; of large tiles a quarter is used, see `mosaic`."""
    bags: Positive
    """Defective pictures per step of which only the label is known."""
    tiles_per_bag: Positive
    """Tiles of each of these pictures that get a gradient: the highest of the last evaluation, and as many others."""
    finetune_steps: Natural
    """Additional steps in which the later stages of the trunk are also trained; 0: the trunk stays frozen."""
    finetune_lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate of these stages."""
    copies: CopiesConfig

    def steps_for(self, tiles: int) -> int:
        """Return the number of steps that train the head: `steps`, or three per ten tiles, from 400 to 9,000.

        >>> from heatline.train.compose import compose
        >>> recipe = compose(["data=.", "recipe=heatline"]).recipe
        >>> recipe.steps_for(100), recipe.steps_for(5_000), recipe.steps_for(50_000)
        (400, 1500, 9000)
        """
        return self.steps or min(max(400, 3 * tiles // 10), 9000)


class FeaturesConfig(Part, frozen=True, kw_only=True):
    """Where the features of the trunk are cached for this training and later ones."""

    folder: str | None
    """None: $XDG_CACHE_HOME/heatline/features, or ~/.cache/heatline/features."""
    limit_gb: Annotated[float, Meta(gt=0, le=1e6)]
    """Limit for the features of all trainings there; the least recently used are deleted."""


class TrainerConfig(Part, frozen=True, kw_only=True):
    accelerator: str
    """`auto`, `cpu`, `gpu`, ...: Lightning's flag."""
    precision: str
    """"auto": bf16-mixed if the machine has bf16 multiplication, else 32-true. Or either of these; recipes
    that train the whole network accept any precision of Lightning."""
    workers: Natural
    """Processes that cut and augment batches; 0: the training process does it."""


REFERENCE_WORDS = ("auto", "on", "off")


class TrainConfig(Part, frozen=True, kw_only=True):
    """The whole configuration, as stored in `config.yaml` of the run's folder."""

    data: str
    """The folder of pictures. Must be given."""
    discover: bool
    """`true` discovers the groups in the folder, and the truth if none is named; it is the default of `heatline train
    FOLDER` without `split.group` and `split.pattern`."""
    truth: Literal["masks", "derived_masks", "polygons", "coco", "yolo", "boxes", "labels"] | None
    """`masks`, `derived_masks`, `polygons`, `coco`, `yolo`, `boxes` or `labels`; default: the first that the folder
    has."""
    classes: list[str] | None
    """Annotated classes that are defects, `[short,spur]`; default: all."""
    reviewed: str | None = None
    """A folder of reviewed frames that `heatline retrain` wrote, which are trained on too; None: none."""
    reference: str = "auto"
    """A picture of a good part that frames are compared with, of recipe `heatline`: `auto`, `on`, `off`, or a file; see
    `heatline.train.references`."""
    out: str
    """The run's folder; default: `runs/` and the model's name."""
    seed: Seed
    """Seed of all random choices: split, batches, augmentation. 0 to 4294967295."""
    minutes: Annotated[float, Meta(gt=0)] | None = None
    """Time that a training by recipe `heatline` may take: it goes on improving its first result by fine-tuning, and
    keeps the best. None: the first result is the last."""
    resume: bool
    """`true` resumes the run in `out`."""
    split: SplitConfig
    tiles: TilesConfig
    model: CnnConfig | VitConfig
    """Name of a file in `train/configs/model`, or timm name of a CNN or plain ViT."""
    recipe: RecipeConfig | DenseRecipeConfig
    """Name of a file in `train/configs/recipe`."""
    features: FeaturesConfig
    trainer: TrainerConfig

    @property
    def finetune(self) -> RecipeConfig:
        """The recipe, if it trains the whole network.

        Raises:
            ConfigError: it trains only a head.
        """
        if isinstance(self.recipe, RecipeConfig):
            return self.recipe
        raise ConfigError(
            f"recipe={self.recipe.name} does not train the whole network; choose recipe=finetune or study"
        )
