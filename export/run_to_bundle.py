"""Exports a trained run as a bundle."""

import contextlib
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np

from heatline.edge import __version__
from heatline.edge.bundle import Bundle, Calibration, Manifest, write_bundle
from heatline.edge.bundle.manifest import (
    PRODUCT_TILES,
    SCHEMA,
    Grid,
    Map,
    MapChecks,
    Missed,
    Model,
    ProductReference,
    Tensor,
    Tensors,
    product_picture_of,
)
from heatline.edge.bundle.pooling import identity_of
from heatline.edge.bundle.store import GOLDEN, require_new_folder
from heatline.edge.calibration.thresholds import GoodFrame, describe_support
from heatline.edge.drift import fit_reference
from heatline.edge.errors import InputError
from heatline.edge.inference import Engine, Precision, infer, open_engine
from heatline.edge.inference.engine import DIFFERENCE, FEATURES, ONNX_GRAPH, OPENVINO_GRAPH
from heatline.edge.reference.reference import Reference
from heatline.edge.util.text import list_some, utc_now
from heatline.export.gate import TOLERANCE, check_maps, pass_gate, reorient, torch_answers
from heatline.export.onnx_graph import to_graphs
from heatline.export.openvino_ir import to_ir, write_graphs
from heatline.export.precisions import PRECISIONS, Say, make_precisions
from heatline.export.product import fit_product
from heatline.export.screening import make_screening
from heatline.export.validation_tiles import divide_by_group, good_tiles, quantisation_tiles, select_validation_tiles
from heatline.train.adequacy import describe_threshold_transfer
from heatline.train.evaluation.evaluated import TorchEngine
from heatline.train.evaluation.result import count_kinds, lacks_report, read_evaluation
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from heatline.train.progress import Track
from heatline.train.run import RunFolder, TrainedRun, describe_config, describe_reading
from heatline.train.validation_frames import (
    HeldOut,
    Inputs,
    run_validation,
    smoothing_px,
    validation_frames,
)


def export_run(
    run: TrainedRun,
    target: Path,
    *,
    name: str,
    version: str,
    false_reject: float,
    smoothing_cells: float | None = None,
    precisions: Collection[Precision] = PRECISIONS,
    allow: Collection[Precision] = (),
    allow_map: bool = False,
    design: str | None = None,
    reference: Reference | None = None,
    screen: bool = False,
    track: Track = iter,
    say: Say = lambda line: None,
) -> Bundle:
    """Write the bundle of a run to a new folder.

    Args:
        false_reject: wanted share of good frames that are rejected.
        smoothing_cells: standard deviation of the heatmap's smoothing, in map cells; 0: none; None: by the map's size.
        precisions: the precisions to make; f32 is always made.
        allow: precisions that enter the bundle although they fail the map gate.
        allow_map: whether a map that is stuck or drawn to the border causes only a warning.
        design: whose reference the bundle gets; None: that of the only one.
        reference: that the bundle gets in place of the run's, if the model compares; None: the run's.
        screen: whether the bundle gets a screening stage, if it pays.
        track: wraps the iteration over the validation images, to show its progress.
        say: called with a description of each step, and of the result for each precision.
    Raises:
        ExportError: a graph does not agree with the model, its map is stuck or drawn to the border, or there are no
            frames for calibration.
        InputError: the run has no reference of this design.
        BundleError: the target exists already, or the target or the temporary folder cannot be written.
    """
    require_new_folder(target)
    if not run.summary.finished:
        say(
            f"warning: the training in {run.folder} was stopped at step {run.summary.steps}, before its end; to "
            f"continue it: heatline train out={run.folder} resume=true"
        )
    of_product = reference if reference and run.references else _find_reference(run, design, say)
    validating = validation_frames(run)
    if run.split.val:
        frames, others, frames_are = validating.images, run.split.images(run.data, "train"), validating.are
    else:
        frames, others, frames_are = divide_by_group(validating.images)
    model, tiles = run.model, run.config.tiles
    say("exporting classifier and map as one graph")
    exported = to_graphs(model, tiles.tile_px)
    f32 = to_ir(exported.onnx)
    grid = Grid(
        tile_px=tiles.tile_px,
        overlap_px=tiles.overlap_px,
        smoothing_px=smoothing_px(model.map_hw, tiles.tile_px, smoothing_cells),
    )
    samples = quantisation_tiles(others, grid, run.references) if "int8" in precisions else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_graphs(folder, {ONNX_GRAPH: exported.onnx, **f32.files(OPENVINO_GRAPH)})
        with contextlib.closing(open_engine("openvino", folder, tiles.tile_px)) as engine:
            validation = run_validation(validating, engine, grid, model.map_hw, run.references, track)
            golden = torch_answers(model, validation.tiles, validation.difference)
            pass_gate(golden, folder, model.top_cells)  # also here, so that a failure costs no further minutes
            say("checking that the map depends on what tiles show")
            map_checks = _check_maps(model, engine, good_tiles(frames, grid, run.references), allow_map)
            held_out = HeldOut.calibrate(validation, validating, false_reject, model.top_cells)
            scored = [*validation.frames.values()]
            calibration = msgspec.structs.replace(held_out.calibration, missed=_missed(run, held_out))
            for warning in (*map_checks.warnings, *_warnings(calibration, scored, validating.are_new)):
                say(f"warning: {warning}")
            say("recording the appearance of the product")
            plausibility, measured = fit_product(validating.images, grid, engine, of_product)
            score = calibration.score_threshold
            screening = make_screening(run, validating.images, grid, score, golden, say) if screen else None
            # Frames that the model was trained on score lower than new ones.
            scored = scored if validating.are_new else []
            drift = fit_reference(
                measured,
                None if of_product is None else of_product.frame_hw,
                [frame.highest_logit for frame in scored],
                [frame.median_evidence for frame in scored],
                "" if validating.are_new else "the model was trained on all frames; run heatline calibrate",
                () if screening is None else screening.cleared,
            )
            calibration = msgspec.structs.replace(calibration, plausible=plausibility.plausible, reference=drift)
            say("running the model itself on validation tiles")
            validation_tiles = select_validation_tiles(
                frames,
                TorchEngine(model, tiles.tile_px),
                engine,
                grid,
                model.map_hw,
                calibration,
                golden.scale("map"),
                track,
                frames_are,
                run.references,
            )
        made = make_precisions(
            f32,
            None if exported.for_bf16 == exported.onnx else lambda: to_ir(exported.for_bf16),
            validation_tiles,
            golden,
            precisions=precisions,
            allow=allow,
            quantisation_samples=samples,
            transformer=isinstance(model, RolloutClassifier),
            say=say,
        )
        graphs = {ONNX_GRAPH: exported.onnx, **made.files}
        write_graphs(folder, graphs)
        gate = pass_gate(golden, folder, model.top_cells)
    tensors = Tensors(
        Tensor("tiles", "uint8", [None, tiles.tile_px, tiles.tile_px, 3]),
        Tensor("logit", "float32", [None]),
        Tensor("map", "float32", [None, *model.map_hw]),
        Tensor(FEATURES, "float32", [None, *model.cells_shape(tiles.tile_px)])
        if isinstance(model, DenseClassifier)
        else None,
        None if golden.difference is None else Tensor(DIFFERENCE, "uint8", [None, *golden.difference.shape[1:]]),
    )
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        version=version,
        created_at=utc_now(),
        made_by=f"heatline {__version__}",
        model=Model(run.config.model.name, run.config.model.timm, sum(p.numel() for p in model.parameters())),
        tensors=tensors,
        grid=grid,
        map=Map(model.method, model.map_hw, identity_of(model.top_cells)),
        calibration=calibration,
        gate=gate,
        tolerances={"f32": TOLERANCE, **made.tolerances},
        provenance=_provenance(run),
        files={},
        map_gate=made.gate(validation_tiles),
        map_checks=map_checks,
        references={}
        if of_product is None
        else {"": ProductReference(product_picture_of(""), of_product.frame_hw, of_product.frames, of_product.made_of)},
        screening=None if screening is None else screening.stated,
    )
    files = {**graphs, GOLDEN: golden.to_bytes(), **({} if screening is None else screening.files)}
    if plausibility.tiles is not None:
        files[PRODUCT_TILES] = plausibility.tiles.to_bytes()
    if of_product is not None:
        files[product_picture_of("")] = of_product.to_png()
    return write_bundle(target, manifest, files)


def _find_reference(run: TrainedRun, design: str | None, say: Say) -> Reference | None:
    """Return the reference that the bundle gets; None: the model compares with none, or each design has its own."""
    references = run.references
    designs = [] if references is None else references.designs
    if design is not None and design not in designs:
        expected = f"one of {list_some(designs, 10)}" if designs else "no --reference, as it has none by design"
        raise InputError(f"{run.folder} has no reference of {design!r}; expected {expected}")
    if references is None:
        return None
    design = designs[0] if len(designs) == 1 else design
    found = references.of_design(design) if design is not None or not designs else None
    if found is None:
        each = "design has its own: name it with --reference, or make" if designs else "picture has its own: make"
        say(
            f"the bundle has no reference yet, as each {each} one of good frames of the line with heatline bundle "
            "set-reference"
        )
    return found


def _missed(run: TrainedRun, held_out: HeldOut) -> list[Missed]:
    """Count classes and sizes of the defects that the thresholds miss; empty without a report of this version."""
    folder = RunFolder(run.folder)
    if run.summary.folds is None or lacks_report(folder):
        return []
    evaluation = read_evaluation(folder.report)
    frames = []
    for frame in evaluation.frames:
        own = held_out.of_parts.get(run.data.folder / frame.image, held_out.calibration)
        frames.append(msgspec.structs.replace(frame, threshold=own.score_threshold))
    kinds = count_kinds([msgspec.structs.replace(evaluation, frames=frames)])
    return [Missed(kind.name, kind.missed, kind.pictures, kind.by) for kind in kinds]


def _warnings(calibration: Calibration, good: Sequence[GoodFrame], are_new: bool) -> list[str]:
    """Describe what the thresholds do not show, and where they may not hold; `are_new`: frames not trained on."""
    few = describe_support(calibration)
    warnings = [] if few is None else [few]
    lowest, score = calibration.coldest_defect, calibration.score_threshold
    if lowest is not None and lowest < score:
        warnings.append(
            f"good and defective frames overlap: some known defects score only {lowest:.2f}, below the score threshold "
            f"of {score:.2f}, and would escape; the run's report names them"
        )
    if not are_new:
        warnings.append(
            "the thresholds come from frames that the model was trained on, which it scores lower than new parts; run "
            "heatline calibrate with other good frames before a line uses the bundle"
        )
        return warnings
    scores, groups = [frame.highest_logit for frame in good], [frame.group for frame in good]
    return [*warnings, *describe_threshold_transfer(scores, groups, calibration.false_reject_per_frame, lowest)]


def _check_maps(model: ExplainedClassifier, engine: Engine, tiles: Inputs, allow: bool) -> MapChecks:
    """Check the maps that the graph gives for good tiles; errors as in `check_maps`."""
    maps = infer(engine, *map(reorient, tiles))[1] if len(tiles[0]) else np.empty((0, *model.map_hw), np.float32)
    # A rollout has the sign of its logit everywhere, so the class token's attention is highest far from 0.
    return check_maps(np.abs(maps) if isinstance(model, RolloutClassifier) else maps, allow=allow)


def _provenance(run: TrainedRun) -> dict[str, object]:
    """Return the bundle's provenance: data, weights, training."""
    summary, config = msgspec.to_builtins(run.summary), run.config
    of_training = ("recipe", "finished", "steps", "best_step", "val", "precision", "versions")
    return {
        "data": {
            **{key: summary[key] for key in ("data", "truth", "labelled", "groups", "digests", "tiles")},
            "read": describe_reading(config, summary["truth"]),
        },
        "weights": summary["weights"],
        "training": {
            **{key: summary[key] for key in of_training},
            "seed": config.seed,
            "config": describe_config(config, compares=run.references is not None),
        },
    }
