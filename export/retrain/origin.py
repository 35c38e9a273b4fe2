"""What a bundle was trained on and how, by its provenance, and which reviewed frames trained it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.bundle import Bundle
from heatline.edge.errors import InputError
from heatline.edge.util.text import format_count
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.readers import LabelledFolder
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


class _Data(msgspec.Struct, frozen=True):
    """`provenance.data`: keys of `RunSummary`."""

    truth: str
    groups: dict[str, list[str]]
    digests: list[str] = []


class _Training(msgspec.Struct, frozen=True):
    """`provenance.training`."""

    config: dict[str, Any]
    val: dict[str, float] = {}


class _Provenance(msgspec.Struct, frozen=True):
    data: _Data
    training: _Training
    retraining: Retraining = Retraining()


@dataclass(frozen=True)
class Origin:
    """The training of a bundle."""

    config: TrainConfig
    """Of its training; `data` is the folder that is used now."""
    groups: dict[str, list[str]]
    """Groups of train, val and test."""
    digests: frozenset[str]
    """Of one picture of each training group of the folder; empty: an older version trained it."""
    val: dict[str, float]
    """Figures of its cross-validation."""
    retraining: Retraining
    """The reviewed frames that it was trained on."""

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
        data = read_data(msgspec.structs.replace(self.config, reviewed=None))
        if missing := self.digests - {
            *digest_groups(each for each in data.images if each.group in self.groups["train"])
        }:
            raise InputError(
                f"{folder} is not the folder that the bundle was trained on: the pictures of {len(missing)} of its "
                f"{format_count(len(self.digests), 'group')} are missing, have changed or are in other groups; restore "
                "them, name the right folder with --data, or train again with heatline train"
            )
        return data

    def read_former(self) -> tuple[list[ReviewedFrame], str | None]:
        """Return the reviewed frames that the bundle was trained on, and a sentence if they do not exist any more."""
        if self.config.reviewed is None:
            return [], None
        try:
            return read_index(Path(self.config.reviewed)), None
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
        found = msgspec.convert(bundle.manifest.provenance, _Provenance)
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
    test = list(found.data.groups["test"])
    config = msgspec.structs.replace(
        config,
        data=config.data if data is None else str(data.resolve()),
        truth=found.data.truth,
        # By name, as more groups would change what the shares of the first training draw.
        split=msgspec.structs.replace(config.split, val=[], test=test, fractions=[1.0, 0.0, 0.0]),
    )
    return Origin(
        config,
        found.data.groups,
        frozenset(found.data.digests),
        found.training.val,
        found.retraining,
    )
