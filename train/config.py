"""What a training is configured by: `train.compose` puts it together, the structs here check it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.errors import ConfigError

Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Strength = Annotated[float, Meta(ge=0, le=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SplitConfig(Part, frozen=True, kw_only=True):
    """How groups are told and divided."""

    group: str
    """Column of `labels.csv` that names the group."""
    pattern: str | None
    """Instead, a regular expression on the file name, its first parenthesis the group."""
    val: list[str | int | float]
    """Groups that choose the best checkpoint, by name."""
    test: list[str | int | float]
    """Groups that training leaves out, by name."""
    fractions: list[float]
    """Shares of groups for train, val, test, where none is named."""


class TilesConfig(Part, frozen=True, kw_only=True):
    """How frames are cut into labelled tiles."""

    tile_px: Annotated[int, Meta(ge=32, le=4096)]
    overlap_px: Natural
    defective_share: Annotated[float, Meta(ge=0, lt=1)]
    """A tile is defective if more than this share of its area is."""


class ModelConfig(Part, frozen=True, kw_only=True, tag_field="family"):
    """A model by our name, and what it is made from: what every family has."""

    name: str
    timm: str
    """The timm model, with its pretrained tag."""
    weights: str
    """"imagenet", "none" for a random start, or a file."""

    @property
    def family(self) -> str:
        """Which kind it is: "cnn" or "vit"."""
        return str(self.__struct_config__.tag)


class CnnConfig(ModelConfig, frozen=True, kw_only=True, tag="cnn"):
    """A CNN with a class activation map."""

    stride: Positive | None
    """Input px per map cell: features end at the last stage of this stride. None: the network's last."""
    head: Literal["cam", "dense"] = "cam"
    """cam: one layer on features of `stride`. dense: a head on those of strides 4, 8 and 16, for recipe=heatline."""
    width: Positive = 32
    """Hidden channels of a dense head."""


class VitConfig(ModelConfig, frozen=True, kw_only=True, tag="vit"):
    """A plain ViT with attention rollout."""

    fusion: Literal["min", "mean", "max"]
    """How the heads of a layer become one."""
    discard_ratio: Annotated[float, Meta(ge=0, lt=1)]
    """Share of the lowest entries of each layer's fused attention that are set to zero."""


class AugmentConfig(Part, frozen=True, kw_only=True):
    """What is done to training tiles, each by itself; strengths as shares of the full range."""

    flips: bool
    rotate: bool
    """By 0, 90, 180 or 270 degrees."""
    brightness: Strength
    contrast: Strength
    gain: Strength
    """Per channel."""
    noise: Strength
    """Highest standard deviation, in a quarter of the tiles."""
    blur: bool
    """A light one, in a quarter of the tiles."""


class RecipeConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="finetune"):
    """How the whole network is trained."""

    name: str
    epochs: Positive | None
    """Passes over the training tiles (or pictures, where only those are labelled); None: `steps` says how long."""
    steps: Positive | None
    """Instead of epochs; one step is one batch."""
    validate_every: Positive | None
    """Steps between validations, None: an epoch; the last step is always followed by one."""
    patience: Positive | None
    """Validations in a row without a better checkpoint after which training ends early; None: it never does."""
    select: Literal["average_precision", "accuracy"]
    """By what the best checkpoint is chosen on the validation groups."""
    batch: Annotated[int, Meta(ge=2)]
    """Tiles per step that give a gradient: what memory is needed for."""
    bags: Annotated[int, Meta(ge=2)]
    """Pictures per step, where only whole pictures are labelled."""
    optimiser: Literal["adamw", "adam"]
    lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate."""
    lr_interval: tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]
    """Where a search looks for it."""
    weight_decay: Annotated[float, Meta(ge=0)]
    schedule: Literal["cosine", "plateau"]
    """"cosine": up over the warm-up, then down to zero. "plateau": a tenth whenever validation loss stops falling."""
    warmup: Strength
    """Share of the steps over which a cosine schedule rises."""
    defective_share_of_batch: Share | None
    """None: tiles come as often as they are."""
    jitter_px: Natural
    """Tiles are taken up to so far from their place in the grid."""
    skip_ambiguous: bool
    """Whether tiles that are defective, but not enough to be called so, are left out of training."""
    augment: AugmentConfig

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"recipe.epochs is {self.epochs} and recipe.steps is {self.steps}; leave one of them out, or set it "
                "to null"
            )


class CopiesConfig(Part, frozen=True, kw_only=True):
    """How many copies of tiles are trained on besides the tiles themselves."""

    defective: Natural
    """Moved and disturbed copies of each tile whose defects are marked."""
    most: Natural
    """Of defective tiles, good tiles and synthetic defects, each: fewer where there are fewer tiles."""


class DenseRecipeConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="dense"):
    """How a dense head is trained on the features of a trunk that stays as it is, and cross-validated."""

    name: str
    folds: Annotated[int, Meta(ge=1, le=20)]
    """Of the cross-validation; fewer where there are fewer groups."""
    steps: Positive | None
    """None: more for more tiles, see `steps_for`."""
    located: Positive
    """Per step, tiles whose defects are marked."""
    good: Positive
    """Per step, good tiles."""
    synthetic: Natural
    """Per step, good tiles with a synthetic defect."""
    bags: Positive
    """Per step, pictures of which only the label is known to be defective."""
    tiles_per_bag: Positive
    """Of each of these pictures, tiles that get a gradient: the hottest, and as many others."""
    lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate; it rises over the warm-up and falls to zero as a cosine."""
    weight_decay: Annotated[float, Meta(ge=0)]
    warmup: Strength
    """Share of the steps."""
    finetune_steps: Natural
    """Steps that follow, in which the later stages of the trunk are trained too; 0: the trunk stays as it is."""
    finetune_lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate of these stages."""
    jitter_px: Natural
    """Copies are taken up to so far from their tile's place."""
    copies: CopiesConfig
    augment: AugmentConfig
    """Of the copies."""

    def steps_for(self, tiles: int) -> int:
        """How many steps train the head: what is asked for, or one per five tiles, 200 at least and 2,400 at most.

        >>> from train.compose import compose
        >>> recipe = compose(["data=.", "recipe=heatline"]).recipe
        >>> recipe.steps_for(100), recipe.steps_for(5_000), recipe.steps_for(10_000)
        (200, 1000, 2000)
        """
        return self.steps or min(max(200, tiles // 5), 2400)


class FeaturesConfig(Part, frozen=True, kw_only=True):
    """Where the features of the trunk are cached for this training and later ones."""

    folder: str | None
    """None: $XDG_CACHE_HOME/heatline/features, or ~/.cache/heatline/features."""
    limit_gb: Annotated[float, Meta(gt=0, le=1e6)]
    """What features of all trainings take there; the least recently used are deleted."""


class TrainerConfig(Part, frozen=True, kw_only=True):
    """What a training runs on: flags of Lightning's Trainer, handed on as they are."""

    accelerator: str
    """"auto", "cpu", "gpu", "mps", ..."""
    devices: int | str | list[int]
    """How many, "auto", or which."""
    precision: str
    """"auto": bf16-mixed where the machine multiplies bf16 itself, else 32-true. Or one of these; a recipe that trains
    the whole network takes any of Lightning's."""
    workers: Natural
    """Processes that cut and augment batches; 0: the training itself does."""


class LoggerConfig(Part, frozen=True, kw_only=True):
    """Where metrics go besides `metrics.csv`."""

    name: Literal["csv", "wandb"]
    project: str
    """Of Weights & Biases."""
    mode: Literal["online", "offline"]
    """"offline" writes into the run's folder; `wandb sync` uploads it later."""


class TrainConfig(Part, frozen=True, kw_only=True):
    """All of it, as `config.yaml` in the run's folder keeps it."""

    data: str
    discover: bool
    """Whether truth and groups are found in the folder, see `train.discovery`."""
    truth: Literal["masks", "derived_masks", "polygons", "coco", "boxes", "labels"] | None
    """Which annotation labels come from; None: the first that is there."""
    classes: list[str | int | float] | None
    """Annotated classes that are defects; None: all."""
    out: str
    seed: Seed
    resume: bool
    split: SplitConfig
    tiles: TilesConfig
    model: CnnConfig | VitConfig
    recipe: RecipeConfig | DenseRecipeConfig
    features: FeaturesConfig
    trainer: TrainerConfig
    logger: LoggerConfig

    @property
    def finetune(self) -> RecipeConfig:
        """The recipe, where it trains the whole network.

        Raises:
            ConfigError: it does not.
        """
        if isinstance(self.recipe, RecipeConfig):
            return self.recipe
        raise ConfigError(
            f"recipe={self.recipe.name} does not train the whole network; choose recipe=finetune or study"
        )
