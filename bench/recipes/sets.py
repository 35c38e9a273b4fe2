"""The data sets of the bench: folder, truth and groups."""

import csv
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError, InputError
from heatline.edge.images import list_images
from heatline.edge.picture_folders import TEMPLATES
from heatline.train.files import write_atomically
from heatline.train.readers.folder import TRUTHS

SHIPPED = Path(__file__).parent / "sets.yaml"
LABELS = "labels.csv"
GOOD = "good_"
"""Prefix of the names of good pictures from a folder of their own."""
NO_FIGURE = ("features.", "trainer.")
"""Beginnings of keys that change no figure: where and on what a training runs."""
SET_BY_BENCH = {"data", "out", "seed", "recipe", "resume", "split.val", "split.test"}


class DataSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set; docs/recipes-log.md describes the keys."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    folder: str | None = None
    truth: Literal["masks", "derived_masks", "polygons", "coco"]
    group: str | None = None
    pattern: str | None = None
    good: str | None = None
    templates: bool = False
    targets: dict[str, float] = {}
    """Targets by the name of the figure."""

    def __post_init__(self) -> None:
        if (self.group is None) == (self.pattern is None):
            raise ValueError(f"{self.name} has group {self.group} and pattern {self.pattern}; expected one of them")
        if self.is_linked and self.pattern is None:
            raise ValueError(f"{self.name} has good pictures or templates, which no labels.csv names; give a pattern")

    @property
    def is_linked(self) -> bool:
        """Whether its pictures are in several folders, and a folder of links is made of them."""
        return self.good is not None or self.templates

    def overrides(self, data: Path, work: Path) -> list[str]:
        """Return the overrides by which `heatline train` reads the set; arguments and errors as of `pictures`."""
        by = f"group={self.group}" if self.pattern is None else f"pattern={self.pattern}"
        by = "group=group" if self.is_linked else by
        return [f"data={self.pictures(data, work)}", f"truth={self.truth}", f"split.{by}"]

    def pictures(self, data: Path, work: Path) -> Path:
        """Return the folder to train on: the set's own, or a folder of links to its good and its defective pictures.

        Args:
            data: folder of all data sets.
            work: folder for links.
        Raises:
            InputError: the set does not exist, or the pattern finds no group in a file name.
        """
        folder, links = data / (self.folder or self.name), work / self.name / "data"
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist; name the folder of {self.name} by --data or HEATLINE_DATA")
        if not self.is_linked:
            return folder
        if (links / LABELS).exists():  # it comes last
            return links
        pictures = []
        good = [] if self.good is None else [(self.good, GOOD, "good")]
        for subfolder, prefix, label in (("images", "", "defective"), *good):
            for path in list_images(folder / subfolder):
                found = re.search(str(self.pattern), path.name)
                if found is None or not found[1]:
                    raise InputError(f"the pattern {self.pattern} of {self.name} finds no group in {path}; mend it")
                pictures.append(LinkedPicture(path, f"{prefix}{path.name}", label, found[1]))
        truths = [name for form in TRUTHS[self.truth] for name in form.subfolders if (folder / name).is_dir()]
        truths += [TEMPLATES] * self.templates
        return link_folder(links, pictures, {name: folder / name for name in truths})


class LinkedPicture(NamedTuple):
    """A picture of a folder of links."""

    path: Path
    name: str
    """Name of the link."""
    label: str
    group: str


def link_folder(links: Path, pictures: Sequence[LinkedPicture], truths: Mapping[str, Path]) -> Path:
    """Make a folder of links to pictures, with labels and groups in `labels.csv`; replace a folder of that name.

    Args:
        truths: folders of annotations, by the names of their links.
    """
    shutil.rmtree(links, ignore_errors=True)
    for name, path in {**{f"images/{one.name}": one.path for one in pictures}, **truths}.items():
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(path.resolve())

    def write(place: Path) -> None:
        with place.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "label", "group"), *(one[1:] for one in pictures)])

    write_atomically(links / LABELS, write)
    return links


def read_sets(file: Path, names: Collection[str] = ()) -> list[DataSet]:
    """Read the data sets of a YAML file.

    Args:
        names: of the sets to return; empty: all.
    Raises:
        ConfigError: the file cannot be read, is not a list of data sets, or lacks a name.
    """
    try:
        sets = msgspec.yaml.decode(file.read_bytes(), type=list[DataSet])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is not a list of data sets: {reason}; see docs/recipes-log.md") from error
    known = [one.name for one in sets]
    for name in names:
        if name not in known:
            raise ConfigError(f"{file} has no data set {name!r}; it has {', '.join(known)}, choose one of these")
    return [one for one in sets if not names or one.name in names]


def that_change_figures(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that change the figures of a training, sorted.

    Raises:
        ConfigError: the bench sets one of them itself.
    """
    if taken := {item.partition("=")[0] for item in overrides} & SET_BY_BENCH:
        raise ConfigError(f"the bench sets {min(taken)} itself; leave it out")
    return sorted(item for item in overrides if not item.startswith(NO_FIGURE))
