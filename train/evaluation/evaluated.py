"""Models that can be evaluated: the run of a training, by PyTorch, or a bundle, by the engine of the line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from heatline.edge.bundle import Bundle, Calibration, open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import Grid, Manifest, Map
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.bundle.pooling import identity_of
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.errors import InputError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inference.engine import Done, Engine, Failed, Fill
from heatline.edge.inspection.inspector import Settings, product_references
from heatline.edge.reference.difference import CHANNELS
from heatline.edge.reference.reference import Reference
from heatline.train.compose import read_config
from heatline.train.config import RecipeConfig
from heatline.train.evaluation.result import LOOSE
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.progress import Track
from heatline.train.run import RunFolder, TrainedRun, describe_reading, load_run, require_model
from heatline.train.validation_frames import HeldOut, run_validation, smoothing_px, validation_frames


class TorchEngine(Engine):
    """PyTorch in float32 on the model's device. Calls `done` before `submit` returns."""

    name = "torch"
    batch = 16

    def __init__(self, model: ExplainedClassifier, tile_px: int) -> None:
        self._model = model
        self._inputs = [np.zeros((self.batch, tile_px, tile_px, 3), np.uint8)]
        self.compares = isinstance(model, DenseClassifier) and model.compares
        if self.compares:
            self._inputs.append(np.zeros((self.batch, *model.map_hw, CHANNELS), np.uint8))

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        try:
            inputs = [each[:count] for each in self._inputs]
            fill(*inputs)
            device = next(self._model.parameters()).device
            with torch.inference_mode():
                logits, maps = self._model(*(torch.from_numpy(each).to(device) for each in inputs))
            done(logits.cpu().numpy(), maps.cpu().numpy())
        except Exception as error:  # as in every engine: any error is reported for these tiles
            failed(error)


@dataclass(frozen=True)
class EvaluatedModel:
    """An open model, with its engine and thresholds."""

    path: Path
    model_name: str
    settings: Manifest | Settings
    engine: Engine
    engine_description: str
    summary: dict[str, Any]
    """Facts of the training: keys of `RunSummary`, as far as known."""
    reading: dict[str, Any]
    """How the training read its pictures, see `heatline.train.run.describe_reading`."""
    run: TrainedRun | None = None
    """None: a bundle."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """What a bundle compares frames with, by camera; a run has those of its pictures."""
    plausibility: Plausibility | None = None
    """None: not known, as of every run."""
    held_out: Mapping[Path, Calibration] = field(default_factory=dict)
    """Thresholds for the pictures that set the model's own, by the others of these pictures."""
    loose_threshold: float | None = None
    """The score threshold for `LOOSE` false rejects; None: not known, or not larger than the wanted share."""
    loose_held_out: Mapping[Path, Calibration] = field(default_factory=dict)

    @property
    def family(self) -> Literal["cnn", "vit"]:
        return "vit" if self.settings.map.method.startswith("rollout") else "cnn"

    @property
    def cell_px(self) -> float:
        return self.settings.grid.tile_px / min(self.settings.map.hw)

    def groups(self, part: str) -> set[str]:
        """Return the groups that the model names as train, val or test."""
        return set(self.summary.get("groups", {}).get(part, []))


def open_model(
    path: Path,
    engine: EngineKind = "openvino",
    precision: Precision = "f32",
    false_reject: float = 0.01,
    track: Track = iter,
) -> EvaluatedModel:
    """Open a bundle, or a run's folder; a run gets the thresholds that its export would set.

    Args:
        engine, precision: of a bundle.
        false_reject: share of good frames that the thresholds of a run may reject.
        track: wraps the validation frames of a run, to show progress.
    Raises:
        InputError: the path is neither, or the pictures of the training do not exist.
        BundleError, TrainingError, ExportError: the model cannot be used.
    """
    require_model(path)
    if (path / MANIFEST).exists():
        return _open_bundle(open_bundle(path), engine, precision)
    RunFolder(path).read_summary()  # raises how to resume an interrupted training
    data = Path(read_config(RunFolder(path).config).data)
    if not data.is_dir():
        raise InputError(
            f"{path} was trained on {data}, which is not a folder any more, and its thresholds come from those "
            "pictures; restore the folder, or evaluate a bundle of the run"
        )
    return prepare_run(load_run(path), false_reject, track)


def _open_bundle(bundle: Bundle, kind: EngineKind, precision: Precision) -> EvaluatedModel:
    manifest = bundle.manifest
    verified = open_verified_engine(bundle, kind, precision)
    data = manifest.provenance.get("data", {})
    return EvaluatedModel(
        path=bundle.path,
        model_name=manifest.model.name,
        settings=manifest,
        engine=verified.engine,
        engine_description=f"{verified.engine.name} {verified.computes_in}",
        summary={**manifest.provenance.get("training", {}), **data},
        reading=data.get("read", {}),
        references=product_references(bundle),
        plausibility=bundle.plausibility(),
    )


def prepare_run(
    run: TrainedRun, false_reject: float, track: Track = iter, *, cross_validated: bool = False
) -> EvaluatedModel:
    """Prepare a loaded run, as `open_model` does.

    Args:
        cross_validated: the engine returns the recorded answers of the run's cross-validation, once, instead of
            running the final model.
    """
    tiles, model = run.config.tiles, run.model
    engine: Engine = TorchEngine(model, tiles.tile_px)
    grid = Grid(
        tile_px=tiles.tile_px,
        overlap_px=tiles.overlap_px,
        smoothing_px=smoothing_px(model.map_hw, tiles.tile_px, None),
    )
    frames = validation_frames(run)
    validation = run_validation(frames, engine, grid, model.map_hw, run.references, track)
    summary, recipe = run.summary, run.config.recipe
    batch = recipe.batch if isinstance(recipe, RecipeConfig) else None
    found = HeldOut.calibrate(validation, frames, false_reject, model.top_cells)
    loose = HeldOut.calibrate(validation, frames, LOOSE, model.top_cells) if false_reject < LOOSE else None
    # Thresholds by recorded answers do not judge the answers of the final model, which was trained on these pictures.
    judges = cross_validated or frames.recorded is None
    description = f"{engine.name} {engine.precision}"
    if cross_validated:
        recorded = validation_frames(run).recorded  # again, as each answers once
        assert recorded is not None, "the run was cross-validated"
        engine, description = recorded, "cross-validated"
    return EvaluatedModel(
        path=run.folder,
        model_name=run.config.model.name,
        settings=Settings(grid, Map(model.method, model.map_hw, identity_of(model.top_cells)), found.calibration),
        engine=engine,
        engine_description=description,
        summary={**msgspec.to_builtins(summary), "batch": batch, "lr": recipe.lr},
        reading=describe_reading(run.config, summary.truth),
        run=run,
        held_out=found.of_parts if judges else {},
        loose_threshold=None if loose is None else loose.calibration.score_threshold,
        loose_held_out={} if loose is None or not judges else loose.of_parts,
    )
