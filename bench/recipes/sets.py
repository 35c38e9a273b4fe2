"""The data sets of the bench: folder, truth and groups."""

import csv
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from heatline.edge.errors import ConfigError, InputError
from heatline.edge.images import list_images, read_image
from heatline.edge.picture_folders import TEMPLATES
from heatline.train.files import write_atomically
from heatline.train.readers.folder import TRUTHS
from heatline.train.readers.labelled import LabelledImage

SHIPPED = Path(__file__).parent / "sets.yaml"
LABELS = "labels.csv"
GOOD = "good_"
"""Prefix of the names of good pictures from a folder of their own."""

NO_FIGURE = ("features.", "trainer.")
"""Beginnings of keys that change no figure: where and on what a training runs."""
SET_BY_BENCH = {"data", "out", "seed", "recipe", "resume", "split.val", "split.test"}


class DataSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set; docs/recipes.md describes the keys."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    folder: str | None = None
    truth: Literal["masks", "derived_masks", "polygons", "coco"]
    group: str | None = None
    pattern: str | None = None
    good: str | None = None
    templates: bool = False
    size: tuple[int, int] | None = None
    """Width and height, px, of the pictures that belong to it; None: all."""
    targets: dict[str, float] = {}
    """Targets by the name of the figure."""

    def __post_init__(self) -> None:
        if (self.group is None) == (self.pattern is None):
            raise ValueError(f"{self.name} has group {self.group} and pattern {self.pattern}; expected one of them")
        if self.good is not None and self.pattern is None:
            raise ValueError(f"{self.name} has good pictures in {self.good}, which no labels.csv names; give a pattern")
        if (self.templates and self.pattern is None) or (self.size is not None and self.group is None):
            raise ValueError(f"{self.name}: templates need a pattern, and size needs a group")

    @property
    def grouping(self) -> str:
        """Override by which `heatline train` finds the groups."""
        if self.good is not None or self.templates or self.size is not None:
            return "split.group=group"
        return f"split.group={self.group}" if self.pattern is None else f"split.pattern={self.pattern}"

    def overrides(self, data: Path, work: Path) -> list[str]:
        """Return the overrides by which `heatline train` reads the set; arguments and errors as of `pictures`."""
        return [f"data={self.pictures(data, work)}", f"truth={self.truth}", self.grouping]

    def pictures(self, data: Path, work: Path) -> Path:
        """Return the folder to train on: the set's own, or a folder of links to its good and its defective pictures.

        Args:
            data: folder of all data sets.
            work: folder for links.
        Raises:
            InputError: the set does not exist, or the pattern finds no group in a file name.
        """
        folder = data / (self.folder or self.name)
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist; name the folder of {self.name} by --data or HEATLINE_DATA")
        links = work / self.name / "data"
        if self.good is None and not self.templates and self.size is None:
            return folder
        if (links / LABELS).exists():  # it comes last
            return links
        return self._linked(folder, links) if self.size is None else self._of_size(folder, links)

    def _of_size(self, folder: Path, links: Path) -> Path:
        pictures = []
        with (folder / LABELS).open(newline="") as file:
            for row in csv.DictReader(file):
                path = folder / "images" / row["image"]
                if read_image(path)[0].shape[1::-1] == self.size:
                    pictures.append(LinkedPicture(path, path.name, row["label"], row[str(self.group)]))
        (form,) = TRUTHS[self.truth]
        stems = {one.path.stem for one in pictures}
        files = [path for path in list_images(folder / form.subfolders[0]) if path.stem in stems]
        return link_folder(links, pictures, {f"{form.subfolders[0]}/{path.name}": path for path in files})

    def _linked(self, folder: Path, links: Path) -> Path:
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

    def partly_annotated(self, images: Sequence[LabelledImage], count: int, seed: int, work: Path) -> Path:
        """Make a folder of links in which some pictures have an annotation, and all have label and group.

        Args:
            images: of `pictures`, by the set's truth.
            count: number of defective pictures with their annotation; a larger count of a seed includes a smaller one.
            work: folder for links.
        Raises:
            ConfigError: one file annotates all pictures, or the set has fewer annotations.
        """
        annotated = [image for image in images if image.defective and image.annotation is not None]
        if count > len(annotated):
            raise ConfigError(
                f"{self.name} has {len(annotated)} annotated pictures, fewer than --annotated {count}; give a smaller "
                "number, or leave it out for all"
            )
        links = work / self.name / f"data_annotated{count}_seed{seed}"
        if (links / LABELS).exists():
            return links
        drawn = np.random.default_rng(seed).permutation(len(annotated))[:count]
        return self.link(links, images, [annotated[index] for index in drawn])

    def link(self, links: Path, images: Sequence[LabelledImage], annotated: Sequence[LabelledImage]) -> Path:
        """Make a folder of links to pictures with label and group, some of them with their annotation.

        Raises:
            ConfigError: one file annotates all pictures.
        """
        (form,) = TRUTHS[self.truth]
        truths: dict[str, Path] = {}
        for image in annotated:
            (file,) = image.truth_files
            if file.stem != image.path.stem:
                raise ConfigError(f"{self.name} has all annotations in {file}; name a set with a file for each picture")
            truths[f"{form.subfolders[0]}/{file.name}"] = file
        return link_folder(links, [LinkedPicture.of(image) for image in images], truths)


def draw_pictures(images: Sequence[LabelledImage], count: int, seed: int) -> list[LabelledImage]:
    """Draw pictures in the proportion of good and defective ones; a larger count of a seed includes a smaller one."""
    rng = np.random.default_rng(seed)
    defective = round(count * sum(image.defective for image in images) / len(images))
    chosen: set[int] = set()
    for kind, of_kind in ((True, defective), (False, count - defective)):
        rows = [row for row, image in enumerate(images) if image.defective == kind]
        chosen.update(rows[each] for each in rng.permutation(len(rows))[:of_kind].tolist())
    return [image for row, image in enumerate(images) if row in chosen]


class LinkedPicture(NamedTuple):
    """A picture of a folder of links."""

    path: Path
    name: str
    """Name of the link."""
    label: str
    group: str

    @classmethod
    def of(cls, image: LabelledImage) -> "LinkedPicture":
        return cls(image.path, image.path.name, "defective" if image.defective else "good", str(image.group))


def link_folder(links: Path, pictures: Sequence[LinkedPicture], truths: Mapping[str, Path] = {}) -> Path:
    """Make a folder of links to pictures, with labels and groups in `labels.csv`; replace a folder of that name.

    Args:
        truths: files or folders of annotations, by the names of their links.
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
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name a file of data sets: --sets") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is not a list of data sets: {reason}; docs/recipes.md describes its keys") from error
    known = [one.name for one in sets]
    for name in names:
        if name not in known:
            raise ConfigError(f"{file} has no data set {name!r}; it has {', '.join(known)}, choose one of these")
    return [one for one in sets if not names or one.name in names]


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Return the keys of overrides of a training.

    Raises:
        ConfigError: one of them is set by the bench.
    """
    keys = {item.partition("=")[0] for item in overrides}
    if taken := keys & SET_BY_BENCH:
        raise ConfigError(f"the bench sets {min(taken)} itself; leave it out")
    return keys


def unless_set(own: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Join a bench's own overrides with others, which win.

    Raises:
        ConfigError: as of `keys_of`.
    """
    taken = keys_of(overrides)
    return [*(item for item in own if item.partition("=")[0] not in taken), *overrides]


def that_change_figures(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that change the figures of a training, sorted."""
    return sorted(item for item in overrides if not item.startswith(NO_FIGURE))
