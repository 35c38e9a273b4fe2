"""Shared by the commands that write a bundle with another calibration."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.progress import track

from heatline.edge.bundle import Bundle, Manifest
from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.manifest import Reference
from heatline.edge.bundle.plausibility import Plausibility, find_outliers
from heatline.edge.bundle.store import require_new_folder
from heatline.edge.calibration.recalibration import FEWEST_FRAMES as FEWEST_OF_REFERENCE
from heatline.edge.calibration.recalibration import GoodPictures, NewReference, next_in_series, write_recalibrated
from heatline.edge.cli.output import progress_console
from heatline.edge.drift import FEWEST_FRAMES
from heatline.edge.errors import BundleError, InputError
from heatline.edge.inspection.inspector import ANY_CAMERA
from heatline.edge.util.text import format_count, is_are

SUFFIX = ".bundle"
THRESHOLDS_STAY = (
    "the thresholds come from frames that were compared with another reference; set them again with heatline calibrate"
)
FAR_WIDER = 1.5
"""A bound of the features that is wider than the old one by more than this factor gives a warning."""


def new_bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--to`, `--version` and `--dry-run`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Print the result, but write nothing."),
        click.option("--version", help="Version of the new bundle. Default: the old one with a number, as +cal1."),
        click.option(
            "--to", "target", type=click.Path(path_type=Path), help="Folder of the new bundle. Default: beside the old."
        ),
    ):
        command = option(command)
    return command


keep_reference_option = click.option(
    "--keep-reference",
    is_flag=True,
    help="Compare frames with the bundle's reference. Default: with a new one, made from GOOD_FRAMES.",
)


class NewBundle(NamedTuple):
    """The folder and version of a bundle that is calibrated again."""

    target: Path
    version: str
    dry_run: bool

    @classmethod
    def beside(
        cls, bundle: Path, was: str, target: Path | None, version: str | None, dry_run: bool, mark: str = "cal"
    ) -> "NewBundle":
        """Choose folder and version from `--to` and `--version`, or from the old bundle and its version `was`. Check
        that the bundle can be written there before any frame is run.

        Args:
            mark: says in both names how the bundle was made.

        Raises:
            UsageError: the version is not valid.
            BundleError: the bundle cannot be written there.
        """
        version = next_in_series(was, f"+{mark}") if version is None else version
        if version.strip() in ("", was):
            raise click.UsageError(f"--version {version!r} does not identify the new bundle; expected not {was!r}")
        if not version.isprintable():
            raise click.UsageError(
                f"--version {version!r} cannot be printed on one line; expected printable characters"
            )
        target = target or _beside(bundle, mark)
        if not dry_run:
            if bundle.resolve() in target.resolve().parents:
                raise BundleError(f"{target} lies in {bundle}, which must not change; name another folder with --to")
            require_new_folder(target)
        return cls(target, version, dry_run)

    @property
    def title(self) -> str:
        """Heading of the report."""
        return f"{self.target} {'would be' if self.dry_run else 'is'} written"

    def write(self, parent: Bundle, manifest: Manifest, replaced: Mapping[str, bytes | None]) -> Bundle | None:
        """Write the bundle, see `write_recalibrated`; None: it is a dry run.

        Raises:
            BundleError: the bundle cannot be written.
        """
        return None if self.dry_run else write_recalibrated(self.target, parent, manifest, replaced)


def new_reference(pictures: GoodPictures, parent: Bundle, camera: str = "", *, keep: bool) -> NewReference | None:
    """Return the reference that good frames make; None: the bundle compares with none, or keeps its own.

    Raises:
        InputError: the frames are too few for it, or as `NewReference`.
    """
    if keep or parent.manifest.tensors.difference is None:
        return None
    made = NewReference(pictures.files, pictures.names, camera)
    if (count := len(made.files)) < FEWEST_OF_REFERENCE:
        raise InputError(
            f"{format_count(count, 'different good frame')} came, and a new reference needs {FEWEST_OF_REFERENCE}, "
            "as each is compared with one of the others; name more, or keep the old one with --keep-reference"
        )
    return made


def warn_of_outliers(pictures: GoodPictures, appearances: Sequence[Appearance], copies: Collection[int]) -> list[str]:
    """Warn of good frames that look like no other.

    Args:
        copies: indices of pictures that are copies of others; they do not count.
    Raises:
        InputError: there is only one: the bounds would depend on it.
    """
    own = [index for index in range(len(appearances)) if index not in copies]
    found = find_outliers([appearances[index] for index in own])
    if not found:
        return []
    place, difference = next(iter(found.items()))
    file = pictures.files[own[place]]
    if len(found) == 1:
        raise InputError(
            f"{file} does not look like the other {format_count(len(own) - 1, 'good frame')}: {difference}; "
            "remove it, or if frames like it are good, add another picture like it, no copy"
        )
    return [
        f"{len(found)} of {format_count(len(own), 'good frame')} look like no other, as {file}: {difference}; "
        "check them, as similar frames get a verdict now"
    ]


def cameras_with_own(manifest: Manifest) -> list[str]:
    """Return the cameras with a reference of their own, sorted."""
    return sorted(manifest.references.keys() - {ANY_CAMERA})


def warn_of_own_references(cameras: Sequence[str]) -> list[str]:
    """Warn of cameras that a new reference of all others does not change."""
    names = ", ".join(cameras)
    keeps = f"camera {names} keeps a reference of its own; set it with heatline bundle set-reference --camera"
    return [keeps] if cameras else []


def warn_of_no_reference(reference: Reference | None, frames: int) -> list[str]:
    """Warn if frames are too few to watch drift by."""
    if reference is not None:
        return []
    return [
        f"{format_count(frames, 'frame')} {is_are(frames)} too few to warn of drift by; name at least {FEWEST_FRAMES}"
    ]


def progress(title: str) -> Callable[[Sequence[Path]], Iterable[Path]]:
    console = progress_console()
    return lambda files: track(files, title, console=console, disable=not (console.is_terminal and files))


def _beside(bundle_path: Path, mark: str) -> Path:
    path = bundle_path if bundle_path.name not in ("", "..") else bundle_path.resolve()
    suffix = SUFFIX if path.name.endswith(SUFFIX) else ""
    return path.with_name(next_in_series(path.name.removesuffix(suffix), f"-{mark}") + suffix)


def warn_of_wider_bounds(before: Plausibility, now: Plausibility) -> list[str]:
    """Warn if the new bound of the features is much wider than the old one, or gone."""
    was, is_now = before.plausible.distance, now.plausible.distance
    if before.knows_areas and is_now is not None and not now.knows_areas:
        return [
            "these frames have too few cells to know the product's areas, so a frame that was covered in part may be "
            "GOOD; name more"
        ]
    if was is None:
        return []
    if is_now is None:
        return [
            "these frames are too few to know the product's features, so another product may get a verdict; name more"
        ]
    if is_now <= FAR_WIDER * was:
        return []
    return [
        f"features may lie up to {is_now:.3g} standard deviations from those of the product, and the old bundle allows "
        f"{was:.3g}: the frames are too few, or some do not show the product; name more, and remove those"
    ]
