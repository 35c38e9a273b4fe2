"""The report of a cross-validated run: what the line would have missed and rejected, by held-out predictions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import numpy as np

from heatline.edge.cli.bundle_formatting import describe_bound
from heatline.edge.reference.reference import Reference
from heatline.edge.util.page import Block, Cell, Column, Line, Picture, Section, Table, jpeg_uri, number
from heatline.edge.util.text import format_count, list_some
from heatline.train.adequacy import describe_doubtful_groups, describe_threshold_transfer
from heatline.train.evaluation.evaluate import CROSS_VALIDATION, evaluate_pictures, select_pictures
from heatline.train.evaluation.evaluated import prepare_run
from heatline.train.evaluation.gallery import shrink
from heatline.train.evaluation.report import write_report
from heatline.train.evaluation.result import Evaluation, write_evaluation
from heatline.train.progress import tracked
from heatline.train.references import GAINS, References
from heatline.train.run import RunFolder, TrainedRun

SHOWN = 6
"""References of several designs, or templates, that are shown."""
SIDE_PX = 640
NAMED = 20


def _reference_sections(run: TrainedRun) -> list[Section]:
    """Return the section on the reference; none: the run had no reference."""
    found, notes = run.summary.reference, []
    if found is None:
        return []
    if figures := found.alignment:
        notes.append(
            f"{format_count(int(figures['frames']), 'picture')} could be aligned: shifted by "
            f"{figures['median_shift_px']:.1f} px (median), at most {figures['highest_shift_px']:.1f} px, and turned "
            f"by at most {figures['highest_degrees']:.2f} degrees; the error is at most "
            f"{figures['highest_error_px']:.2f} px, the lowest confidence {figures['lowest_confidence']:.2f}."
        )
    if found.misaligned:
        notes.append(
            f"{format_count(len(found.misaligned), 'picture')} cannot be aligned, and a line gives such frames no "
            f"verdict: {list_some(found.misaligned, NAMED)}."
        )
    strip = [] if run.references is None else [_picture(*each) for each in islice(_shown(run.references), SHOWN)]
    lines = [
        Line((Cell(name), number(found.without.get(key), 3), number(found.compared.get(key), 3)))
        for key, name in GAINS.items()
        if key in found.compared
    ]
    does = "compares" if found.kept else "gains nothing by it, and does not compare"
    columns = Column("cross-validation", is_text=True), Column("without the reference"), Column("with it")
    gains = Block("What it gained", tables=[Table("What the reference gained", columns, lines)])
    intro = f"{found.found[:1].upper()}{found.found[1:]}; the model {does} frames with it."
    blocks = [Block("Reference and alignment", notes=notes, pictures=strip), *[gains] * bool(lines)]
    return [Section("reference", "Reference", intro, blocks)]


def _rounds_sections(run: TrainedRun) -> list[Section]:
    """Return the section on the rounds of fine-tuning; none: the run had none."""
    rounds = run.summary.rounds
    known = [key for key in GAINS if rounds and key in rounds[0].figures]
    columns = [Column(name) for name in ("minute", "steps", *(GAINS[key] for key in known))]
    lines = [
        Line(
            (
                Cell("yes" if each.kept else "no"),
                number(each.seconds / 60, 1),
                Cell(f"{each.steps:,}"),
                *(number(each.figures[key], 3) for key in known),
            )
        )
        for each in rounds
    ]
    intro = "After the first result, each round continues with the last one's networks; a better result is kept."
    blocks = [Block("Rounds", tables=[Table("Result by result", (Column("kept", is_text=True), *columns), lines)])]
    return [Section("minutes", "What the minutes gained", intro, blocks)] * bool(rounds)


def _shown(references: References) -> Iterator[tuple[str, Reference | None]]:
    if references.scope == "templates":
        yield from ((image.name, references.of(image)) for image in references.images)
    elif references.designs:
        yield from ((design, references.of_design(design)) for design in references.designs)
    else:
        yield references.folder.name, references.of_design(None)


def _picture(name: str, reference: Reference | None) -> Picture:
    if reference is None:
        return Picture(None, name, "", "no reference")
    bgr = cv2.cvtColor(shrink(reference.rgb, SIDE_PX), cv2.COLOR_RGB2BGR)
    of = f"median of {reference.frames} pictures" if reference.frames > 1 else reference.made_of
    return Picture(jpeg_uri(np.asarray(bgr, np.uint8)), name, of, "the reference that frames are compared with")


def describe_doubtful(evaluation: Evaluation) -> str | None:
    """Describe good pictures of a report whose labels may be wrong; None: none cost much."""
    good, defective = ([each for each in evaluation.frames if each.defective is kind] for kind in (False, True))
    return describe_doubtful_groups(
        [each.score for each in good],
        [each.group for each in good],
        [each.score for each in defective],
        FALSE_REJECT,
    )


FALSE_REJECT = 0.01
"""Share of good frames that the report's first thresholds reject; the default of `heatline export`."""


def write_run_report(run: TrainedRun) -> Path:
    """Write `report/report.html` of a cross-validated run; return its path. Errors as `evaluate_pictures`."""
    folder = RunFolder(run.folder).report
    model = prepare_run(run, FALSE_REJECT, tracked("thresholds of the report"), cross_validated=True)
    selection = select_pictures(model, truth=run.data.truth, part="train")
    selection = replace(selection, part=CROSS_VALIDATION, trained_on=0)
    evaluation = evaluate_pictures(model, selection, folder, tracked("pictures of the report"))
    folds, good = run.summary.folds, [frame for frame in evaluation.frames if not frame.defective]
    evaluation = msgspec.structs.replace(
        evaluation,
        rests_on=f"{folds}-fold cross-validation over {len(run.split.train)} groups: every frame is answered by a "
        "model that was not trained on its fold, and judged by thresholds from the other folds: equal scores of two "
        "folds may be judged differently",
        warnings=[
            *evaluation.warnings,
            f"Rejected good frames: {describe_bound(evaluation.calibration)}.",
            *filter(None, [describe_doubtful(evaluation)]),
            *describe_threshold_transfer(
                [frame.score for frame in good],
                [frame.group for frame in good],
                FALSE_REJECT,
                evaluation.calibration.coldest_defect,
            ),
        ],
    )
    write_evaluation(evaluation, folder)
    page, _ = write_report(
        [folder],
        folder,
        title=f"{run.data.name}: cross-validation",
        sections=[*_reference_sections(run), *_rounds_sections(run)],
    )
    return page
