"""Plans a retraining: how the bundle was trained, and which reviewed frames are trained on or held out to compare."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec

from heatline.edge.bundle import Bundle
from heatline.edge.errors import InputError
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import Verdict
from heatline.export.retrain.frames import Selection, UsableFrame, digest_pixels
from heatline.export.retrain.judge import Judged
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.discovery import merge_near_duplicates, thumbnails_of
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.labelled import ReviewedFrame, digest_groups, read_index
from heatline.train.run import read_data, restore_config


class Retraining(msgspec.Struct, frozen=True, kw_only=True):
    """`provenance.retraining`. Frames are named by the sha256 of their pixels."""

    parent: dict[str, str] = {}
    """Name, version and digest of the old bundle."""
    trained: list[str] = []
    """The reviewed frames that it was trained on, those of earlier retrainings included."""
    groups: list[str] = []
    """The groups of these frames: their parts, or for a frame of no known part the frame itself. Later frames of them
    cannot be held out, also if the frames themselves are gone."""
    held_out: list[str] = []
    """The reviewed frames by which it was compared with the old bundle."""
    appearance_of_line: bool = False
    """Whether its plausible appearance and its reference of drift are those of a calibration on the line."""


class DataRecord(msgspec.Struct, frozen=True):
    """`provenance.data`: keys of `RunSummary`."""

    truth: str
    groups: dict[str, list[str]]
    """Of train, val and test."""
    digests: list[str] = []
    """Of one picture of each training group of the folder; empty: an older version trained it."""


class TrainingRecord(msgspec.Struct, frozen=True):
    """`provenance.training`."""

    config: dict[str, Any]
    val: dict[str, float] = {}
    """Figures of its cross-validation."""


class Provenance(msgspec.Struct, frozen=True):
    data: DataRecord
    training: TrainingRecord
    retraining: Retraining = Retraining()


@dataclass(frozen=True)
class Origin:
    """The training of a bundle."""

    config: TrainConfig
    """Of its training; `data` is the folder that is used now."""
    recorded: Provenance

    def read_folder(self) -> LabelledFolder:
        """Read the training folder as the training did, without reviewed frames.

        Raises:
            InputError: it is gone, or holds other pictures than the bundle was trained on.
        """
        folder = Path(self.config.data)
        if not folder.is_dir():
            raise InputError(
                f"the training folder {folder} is gone, and the new model must be trained on it too; restore it, or "
                "name where it is now with --data"
            )
        data, was = read_data(msgspec.structs.replace(self.config, reviewed=None)), self.recorded.data
        digests = {*was.digests}
        if missing := digests - {*digest_groups(each for each in data.images if each.group in was.groups["train"])}:
            raise InputError(
                f"{folder} is not the folder that the bundle was trained on: the pictures of {len(missing)} of its "
                f"{format_count(len(digests), 'group')} are missing, have changed or are in other groups; restore "
                "them, name the right folder with --data, or train again with heatline train"
            )
        return data

    def read_former(self) -> tuple[list[tuple[Path, ReviewedFrame]], str | None]:
        """Return the reviewed frames that the bundle was trained on, and a sentence if they do not exist any more."""
        if self.config.reviewed is None:
            return [], None
        folder = Path(self.config.reviewed)
        try:
            return [(folder / row.file, row) for row in read_index(folder)], None
        except InputError as error:
            return [], f"the frames of earlier retrainings are left out, unless their evidence is still there: {error}"


def origin_of(bundle: Bundle, data: Path | None) -> Origin:
    """Return how a bundle was trained.

    Args:
        data: the folder of the training's pictures; None: as the bundle says.
    Raises:
        InputError: the bundle does not say, or its recipe cannot use reviewed frames.
    """
    try:
        found = msgspec.convert(bundle.manifest.provenance, Provenance)
        config = restore_config(found.training.config, Path())
    except msgspec.ValidationError as error:
        raise InputError(
            f"{bundle.path} does not record the configuration of its training, as an older heatline exported it; "
            "export its run again with this version, or train a new bundle"
        ) from error
    if not isinstance(config.recipe, DenseRecipeConfig):
        raise InputError(
            f"{bundle.path} was trained by recipe={config.recipe.name}, and only models of recipe=heatline are trained "
            "again with reviewed frames; train it again by hand on the exported evidence"
        )
    config = msgspec.structs.replace(
        config,
        data=config.data if data is None else str(data.resolve()),
        truth=found.data.truth,
        # By name, as more groups would change what the shares of the first training draw.
        split=msgspec.structs.replace(config.split, val=[], test=found.data.groups["test"], fractions=[1.0, 0.0, 0.0]),
    )
    return Origin(config, found)


Kind = Literal["false alarm", "missed", "right DEFECT", "right GOOD"]
"""What the old bundle makes of a frame, by the reviewers' truth."""
CORRECTIONS: tuple[Kind, ...] = ("false alarm", "missed")
ORDER: tuple[Kind, ...] = ("missed", "false alarm", "right DEFECT", "right GOOD")
"""The rarest and most important kinds choose first."""
NEEDED = 2
"""Least number of groups of one kind of correction: one to train on, one to compare with."""


@dataclass(frozen=True)
class Candidate:
    """A reviewed frame."""

    group: str
    kind: Kind
    pinned: bool
    """Whether the old bundle was trained on its group, so that nothing can be evaluated on it."""


def choose_held_out(candidates: Sequence[Candidate], share: float) -> set[str]:
    """Return the groups that are held out: of each kind about this share of its groups, at least one of two or more.

    At least one group of each kind that has one is trained on. A hash of their names orders the groups, so the same
    marks give the same result on every machine.
    """
    groups_of = groups_by_kind(candidates)
    held_out: set[str] = set()
    for kind in ORDER:
        groups = groups_of[kind]
        wanted = max(1, round(share * len(groups))) if len(groups) > 1 else 0
        for group in sorted(groups - held_out, key=lambda name: sha256(name.encode()).digest()):
            if len(groups & held_out) >= wanted:
                break
            if all(len(others - held_out - {group}) >= 1 for others in groups_of.values() if group in others):
                held_out.add(group)
    return held_out


def groups_by_kind(candidates: Sequence[Candidate]) -> dict[Kind, set[str]]:
    """Return the groups of each kind of frame that the old bundle was not trained on."""
    pinned = {candidate.group for candidate in candidates if candidate.pinned}
    return {
        kind: {each.group for each in candidates if each.kind == kind and each.group not in pinned} for kind in ORDER
    }


WITHOUT_SIMILARITY = (
    "A part without a part id may then be both trained on and held out, so that the new bundle looks better than it is"
)


@dataclass(frozen=True)
class Plan:
    """The reviewed frames of a retraining."""

    trained: list[tuple[Path, ReviewedFrame]]
    """Frames to train on, and their pictures, those of earlier retrainings included."""
    evaluated: list[tuple[UsableFrame, Verdict]]
    """All usable frames with the old bundle's verdict."""
    held_out: frozenset[str]
    """Digests of the frames that neither bundle is trained on."""
    groups: frozenset[str]
    """Groups that are trained on, by the names that their parts give them, those of earlier retrainings included."""
    note: str | None
    """A sentence about what the plan could not take into account."""
    hints: list[str]
    """Sentences about missed defects that a training may not help to find."""


def plan_retraining(
    selection: Selection,
    judge: Callable[[Sequence[UsableFrame]], list[Judged]],
    data: LabelledFolder,
    former: Sequence[tuple[Path, ReviewedFrame]],
    origin: Origin,
    share: float,
) -> Plan:
    """Plan which frames are trained on.

    Args:
        judge: returns the old bundle's answers.
        former: the frames of earlier retrainings.
        share: of the groups of each kind that are held out.
    Raises:
        InputError: there are too few corrections, or marks contradict the training folder.
    """
    frames, in_folder, note = _group(selection.frames, data, former)
    was, tested = origin.recorded.retraining, origin.recorded.data.groups["test"]
    judged = judge(frames)
    verdicts = [each.verdict for each in judged]
    missed = [each.hint for frame, each in zip(frames, judged, strict=True) if kind_of(frame, each.verdict) == "missed"]
    of = f"of {format_count(len(missed), 'missed defect')}"
    hints = [f"{count} {of}: {hint}" for hint, count in Counter(missed).items() if hint is not None]
    trained_digests = {*was.trained, *(row.digest for _, row in former)}
    trained_groups = {image.group for image in data.images} | {row.group for _, row in former}
    candidates = [
        Candidate(
            frame.group,
            kind_of(frame, verdict),
            frame.digest in trained_digests
            or frame.digest in in_folder
            or frame.group in trained_groups
            # Its part was trained on, although that frame now has another group, or is gone.
            or marked.group in was.groups,
        )
        for marked, frame, verdict in zip(selection.frames, frames, verdicts, strict=True)
    ]
    new = groups_by_kind(candidates)
    if max(len(new[kind]) for kind in CORRECTIONS) < NEEDED:
        trained = sum(each.group not in set().union(*new.values()) for each in candidates)
        on_trained = f", {trained} of them on parts that count as trained on (same part id, or a picture alike)"
        why = "".join(f" ({each})" for each in (selection.left_out, *hints) if each)
        raise InputError(
            f"there are too few marks to learn from: {format_count(len(frames), 'usable frame')}"
            f"{on_trained if trained else ''}, with {format_count(len(new['false alarm']), 'false alarm')} and "
            f"{format_count(len(new['missed']), 'missed defect')} of this bundle on new parts{why}; expected at least "
            f"{NEEDED} false alarms, or {NEEDED} missed defects, of different new parts: mark more verdicts on parts "
            "that the training folder does not show"
        )
    groups = choose_held_out(candidates, share)
    if not any(each.group in groups and each.kind in CORRECTIONS for each in candidates):
        raise InputError(
            "the marked frames cannot be divided into some to train on and some to compare with, as frames of "
            "different kinds show the same parts; mark more verdicts, on other parts"
        )
    held_out = frozenset(frame.digest for frame in frames if frame.group in groups)
    replaced = {*(frame.digest for frame in frames), *selection.contradictory}
    rows = [(path, row) for path, row in former if row.digest not in replaced]
    rows += [
        (frame.path, _row(frame))
        for frame in frames
        # Pictures of a test group are never trained on, nor are frames that resemble them.
        if frame.digest not in held_out and frame.digest not in in_folder and frame.group not in tested
    ]
    groups = {frame.group for frame in selection.frames if frame.digest not in held_out} | {*was.groups}
    return Plan(rows, list(zip(frames, verdicts, strict=True)), held_out, frozenset(groups), note, hints)


def kind_of(frame: UsableFrame, verdict: Verdict) -> Kind:
    """Return what the old bundle makes of a frame; no verdict on a defective frame is a missed defect."""
    if frame.truth == "good":
        return "false alarm" if verdict == "DEFECT" else "right GOOD"
    return "right DEFECT" if verdict == "DEFECT" else "missed"


def _row(frame: UsableFrame) -> ReviewedFrame:
    file, places = f"{frame.truth}/{frame.digest[:32]}{frame.path.suffix.lower()}", msgspec.structs.asdict(frame.missed)
    return ReviewedFrame(file=file, digest=frame.digest, truth=frame.truth, group=frame.group, **places)


def _group(
    frames: Sequence[UsableFrame], data: LabelledFolder, former: Sequence[tuple[Path, ReviewedFrame]]
) -> tuple[list[UsableFrame], set[str], str | None]:
    """Put near-duplicate frames into one group, also with pictures of the training folder and former frames.

    Returns: the frames with their groups, the digests of those that the training folder has, and a sentence if
        similarity does not show which pictures show one thing.
    Raises:
        InputError: the training folder gives one of them another label.
    """
    own = [LabelledImage(frame.path, frame.group, frame.truth == "defective", None) for frame in frames]
    before = [LabelledImage(path, row.group, row.truth == "defective", None) for path, row in former]
    images = [*data.images, *before, *own]
    thumbnails = thumbnails_of(images)
    names = [str(image.group) for image in images]
    merged, note = merge_near_duplicates(thumbnails, names)
    fixed = len(data.images) + len(before)
    own_name = dict(zip(reversed(merged[:fixed]), reversed(names[:fixed]), strict=True))  # the first name counts
    grouped = [
        replace(frame, group=own_name.get(root, root)) for frame, root in zip(frames, merged[fixed:], strict=True)
    ]
    small = [None if each is None else each.tobytes() for each in thumbnails]
    in_folder = set()
    for frame, looks in zip(frames, small[fixed:], strict=True):
        for picture, alike in zip(data.images, small, strict=False):
            if alike != looks or digest_pixels(picture.pixels()) != frame.digest:
                continue
            if picture.defective != (frame.truth == "defective"):
                raise InputError(
                    f"{picture.path} is labelled {'defective' if picture.defective else 'good'} in the training folder,"
                    f" and people marked the same frame as {frame.truth}; correct the label, or withdraw the mark"
                )
            in_folder.add(frame.digest)
    return grouped, in_folder, None if note is None or merged != names else f"{note} {WITHOUT_SIMILARITY}"
