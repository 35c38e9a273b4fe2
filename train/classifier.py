"""The Lightning module that trains the whole network of an explained classifier, of any family."""

from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

from heatline.edge.errors import DivergedError
from heatline.train.bags import draw_tiles, log_sum_exp
from heatline.train.batches import Batch
from heatline.train.config import RecipeConfig
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.schedule import cosine

PLATEAU_PATIENCE = 2
"""The plateau schedule lowers the learning rate after more than this many validations in a row without improvement."""


@dataclass(frozen=True)
class Budget:
    """Length of a training in steps; one step is one batch on each device."""

    steps: int
    validate_every: int

    @classmethod
    def of(cls, recipe: RecipeConfig, samples: int, per_step: int) -> "Budget":
        """Return the budget of a recipe.

        Validations are evenly spaced, at most `recipe.validate_every` steps apart, and the last follows the last step;
        the number of steps is rounded up to allow that.

        Args:
            samples: number of samples; an epoch is one pass over them.
            per_step: samples per step, on all devices together.
        """
        epoch = -(-samples // per_step)
        steps = recipe.steps if recipe.epochs is None else recipe.epochs * epoch
        assert steps is not None, "a recipe has steps or epochs"
        validations = -(-steps // (recipe.validate_every or epoch))
        validate_every = -(-steps // validations)
        return cls(validations * validate_every, validate_every)


class ClassifierTraining(lightning.LightningModule):
    """Trains by binary cross-entropy on shifted logits (see `BatchSampler`); validation uses the model's own logits.

    Args:
        model: the model to train.
        recipe: optimiser, schedule and selection of the best checkpoint.
        budget: length of the training.
        shift: added to each logit in the training loss.
        seed: with the step's number, seeds the model's random numbers (dropout), so that a resumed training draws the
            same ones.
    """

    def __init__(
        self, model: ExplainedClassifier, recipe: RecipeConfig, budget: Budget, shift: float, seed: int
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.budget, self.shift, self.seed = model, recipe, budget, shift, seed
        self.train_loss = MeanMetric()
        self.train_loss.persistent(True)  # a checkpoint between two validations stores the partial sum
        self.val_loss, self.val_accuracy, self.val_positive = MeanMetric(), BinaryAccuracy(), MeanMetric()
        self.val_ap, self.val_auroc = BinaryAveragePrecision(), BinaryAUROC()
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 1_009 + self.global_rank)

    def logits(self, batch: Batch) -> Tensor:
        """Return one logit per label of the batch."""
        return self.model.logits(batch.tiles)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.logits(batch)
        loss = binary_cross_entropy_with_logits(logits + self.shift, batch.labels)
        self._require_finite(loss, "the loss")
        self.train_loss.update(loss.detach())
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, labels = self.logits(batch), batch.labels
        self._require_finite(logits.sum(), "the sum of the validation logits")
        self.val_loss.update(binary_cross_entropy_with_logits(logits, labels), weight=len(labels))
        self.val_positive.update(labels)
        for metric in (self.val_accuracy, self.val_ap, self.val_auroc):
            # Probabilities, as torchmetrics guesses by the range; float64, as nearly certain ones would become ties.
            metric.update(logits.double().sigmoid(), labels.long())

    def _require_finite(self, value: Tensor, name: str) -> None:
        if not reduce_decision(self.trainer, bool(torch.isfinite(value)), by_all=True):
            raise DivergedError(
                f"{name} became {value.item()} at step {self.global_step}; lower the learning rate: recipe.lr"
            )

    def on_validation_epoch_end(self) -> None:
        share = self.val_positive.compute()
        values = {
            "val_ap": self.val_ap.compute(),
            "val_auroc": self.val_auroc.compute(),
            "val_loss": self.val_loss.compute(),
            "val_accuracy": self.val_accuracy.compute(),
            "val_majority_share": torch.maximum(share, 1 - share),
        }
        for metric in (self.val_loss, self.val_accuracy, self.val_positive, self.val_ap, self.val_auroc):
            metric.reset()
        chosen = {"average_precision": "val_ap", "accuracy": "val_accuracy"}[self.recipe.select]
        values["val_merit"] = merit(values[chosen], values["val_loss"])
        self.log("val_ap", values.pop("val_ap"), prog_bar=True)
        self.log_dict(values)
        if self._plateau is not None:
            self._plateau.step(float(values["val_loss"]))

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and a schedule by step.

        This class steps the plateau schedule after each validation. Lightning would do so only after it has written the
        checkpoint, so a resumed training would lack a step.
        """
        optimizer = self._optimizer()
        if self.recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, patience=PLATEAU_PATIENCE)
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
            return optimizer
        schedule = LambdaLR(optimizer, lambda step: cosine(step, self.budget.steps, self.recipe.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._plateau_state = checkpoint.get("plateau")  # its optimiser is created later

    def _optimizer(self) -> Optimizer:
        """Create the optimiser; weight decay excludes biases, normalisation scales, tokens and position embeddings."""
        excluded = {
            f"{path}.{name}"
            for path, module in self.model.named_modules()
            if hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()
        }
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, value in self.model.named_parameters():
            (decayed if value.ndim > 1 and name not in excluded else others).append(value)
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return (AdamW if self.recipe.optimiser == "adamw" else Adam)(groups, lr=self.recipe.lr)


class BagTraining(ClassifierTraining):
    """Classifier training whose samples are bags (see `bags`)."""

    def logits(self, batch: Batch) -> Tensor:
        """Return the bags' logits [bags]; in training, at most `recipe.batch` tiles get a gradient."""
        assert batch.bag is not None, "a batch of bags has the bag of each tile"
        bags, most = len(batch.labels), self.recipe.batch
        if not self.training:
            return log_sum_exp(self._evaluate(batch.tiles), batch.bag, bags)
        if len(batch.tiles) <= most:
            return log_sum_exp(self.model.logits(batch.tiles), batch.bag, bags)
        self.model.eval()  # normalisation as on the line; its averages do not change
        logits = self._evaluate(batch.tiles)
        self.model.train()
        drawn = draw_tiles(logits, batch.bag, bags, most)
        return log_sum_exp(logits.index_put((drawn,), self.model.logits(batch.tiles[drawn])), batch.bag, bags)

    @torch.no_grad()
    def _evaluate(self, tiles: Tensor) -> Tensor:
        """Return the tiles' logits [N] without gradient, in batches of at most max(`recipe.batch`, 64) tiles."""
        return torch.cat([self.model.logits(part) for part in torch.split(tiles, max(self.recipe.batch, 64))])


def reduce_decision(trainer: lightning.Trainer, decision: bool, *, by_all: bool) -> bool:
    """Combine the decisions of all devices: a device that stopped alone would leave the others waiting.

    Args:
        by_all: whether all must agree; otherwise one is enough.
    """
    if trainer.world_size == 1:
        return decision
    return trainer.strategy.reduce_boolean_decision(decision, all=by_all)


def merit(chosen: Tensor, loss: Tensor) -> Tensor:
    """Return the figure that the best checkpoint maximises: the chosen metric to three digits, then a lower loss.

    With few defective tiles, average precision and accuracy soon reach 1 and no longer distinguish checkpoints.
    """
    return chosen.round(decimals=3) - 1e-4 * loss.clamp(0, 1)
