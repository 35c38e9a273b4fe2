"""What can be evaluated: the run of a training, through PyTorch, or a bundle, through the engine that will run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.bundle import Bundle, Calibration, open_bundle, open_verified_engine
from edge.bundle.manifest import Grid, Map
from edge.bundle.plausibility import Plausibility
from edge.bundle.pooling import identity_of
from edge.bundle.store import MANIFEST
from edge.errors import InputError
from edge.inference import Engine, EngineKind, Precision
from edge.inspection.inspector import Inspector
from train.compose import read_config
from train.config import RecipeConfig, TrainConfig
from train.evaluation.engines import TorchEngine
from train.progress import Track
from train.run import RunFolder, RunSummary, TrainedRun, describe_reading, load_run
from train.validation_frames import calibrate_on, run_validation, smoothing_px, validation_frames


@dataclass(frozen=True)
class Settings:
    """What an inspector needs to know, as a bundle's manifest has it."""

    grid: Grid
    map: Map
    calibration: Calibration


@dataclass(frozen=True)
class EvaluatedModel:
    """One model, ready to be asked."""

    path: Path
    kind: Literal["run", "bundle"]
    model: str
    settings: Settings
    engine: Engine
    engine_is: str
    """Its name and precision, in words."""
    summary: dict[str, Any]
    """What is told of its training: keys of `RunSummary`, as far as known."""
    data: Path | None
    """The pictures that taught it, where it tells."""
    read: dict[str, Any]
    """How they were read, see `train.run.describe_reading`."""
    run: TrainedRun | None = None
    plausibility: Plausibility | None = None
    """What its frames must look like; None: it does not know, as no run does."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def family(self) -> Literal["cnn", "vit"]:
        return "vit" if self.settings.map.method.startswith("rollout") else "cnn"

    @property
    def cell_px(self) -> float:
        """Side of a map cell, px."""
        return self.settings.grid.tile_px / min(self.settings.map.hw)

    def groups(self, part: str) -> set[str]:
        """The groups that it names as train, val or test."""
        return set(self.summary.get("groups", {}).get(part, []))

    def inspector(self) -> Inspector:
        return Inspector(self.settings, self.engine, plausibility=self.plausibility)


def open_model(
    path: Path,
    engine: EngineKind = "openvino",
    precision: Precision = "f32",
    false_reject: float = 0.01,
    track: Track = iter,
) -> EvaluatedModel:
    """Open a run's folder or a bundle.

    A run has no thresholds yet: it gets those that its export would set, from its validation frames.

    Args:
        engine, precision: for a bundle.
        false_reject: wanted share of good frames that a run's thresholds may reject.
        track: wraps a run's validation frames, to show how far that is.
    Raises:
        InputError: it is neither, or the pictures that taught a run are gone.
        BundleError, TrainingError, ExportError: it cannot be used.
    """
    if (path / MANIFEST).exists():
        return _of_bundle(open_bundle(path), engine, precision)
    if RunFolder(path).summary.exists():
        data = Path(read_config(RunFolder(path).config).data)
        if not data.is_dir():
            raise InputError(
                f"{path} was taught on {data}, which is no folder any more, and its thresholds come from there; put it "
                "back, or evaluate a bundle of the run"
            )
        return judge_run(load_run(path), false_reject, track)
    raise InputError(
        f"{path} is neither a run nor a bundle; name a folder that `heatline train` or `heatline export` wrote"
    )


def _of_bundle(bundle: Bundle, kind: EngineKind, precision: Precision) -> EvaluatedModel:
    manifest = bundle.manifest
    verified = open_verified_engine(bundle, kind, precision)
    told = manifest.provenance.get("data", {})
    training = manifest.provenance.get("training", {})
    return EvaluatedModel(
        path=bundle.path,
        kind="bundle",
        model=manifest.model.name,
        settings=Settings(manifest.grid, manifest.map, manifest.calibration),
        engine=verified.engine,
        engine_is=f"{verified.engine.name} {verified.computes_in}",
        summary={**training, **told, "weights": manifest.provenance.get("weights", {})},
        data=None,
        read=told.get("read", {}),
        plausibility=bundle.plausibility(),
    )


def judge_run(run: TrainedRun, false_reject: float, track: Track = iter) -> EvaluatedModel:
    """As `open_model`, of a run that is loaded."""
    tiles, model = run.config.tiles, run.model
    engine = TorchEngine(model, tiles.tile_px)
    grid = Grid(
        tile_px=tiles.tile_px,
        overlap_px=tiles.overlap_px,
        smoothing_px=smoothing_px(model.map_hw, tiles.tile_px, None),
    )
    frames = validation_frames(run)
    validation = run_validation(
        track(frames.images), frames.recorded or engine, grid=grid, map_hw=model.map_hw, are=frames.are
    )
    summary: RunSummary = run.summary
    return EvaluatedModel(
        path=run.folder,
        kind="run",
        model=run.config.model.name,
        settings=Settings(
            grid,
            Map(model.method, model.map_hw, identity_of(model.top_cells)),
            calibrate_on(validation, frames, false_reject, model.top_cells),
        ),
        engine=engine,
        engine_is=f"{engine.name} {engine.precision}",
        summary={**msgspec.to_builtins(summary), **_told_of_recipe(run.config)},
        data=Path(run.config.data),
        read=describe_reading(run.config, summary.truth),
        run=run,
    )


def _told_of_recipe(config: TrainConfig) -> dict[str, Any]:
    recipe = config.recipe
    return {"batch": recipe.batch if isinstance(recipe, RecipeConfig) else None, "lr": recipe.lr}
