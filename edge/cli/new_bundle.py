"""What commands share that write a bundle with another calibration beside the one that they read."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.progress import track

from edge.bundle import Bundle, Manifest
from edge.bundle.plausibility import Appearance, Plausibility, ProductTiles, find_outliers
from edge.bundle.store import require_new_folder
from edge.calibration.recalibration import GoodPictures, next_in_series, write_recalibrated
from edge.cli.output import progress_console
from edge.errors import BundleError, InputError
from edge.util.text import format_count

SUFFIX = ".bundle"
FAR_WIDER = 1.5
"""Times what was plausible before: more is warned of."""


def new_bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--to`, `--version` and `--dry-run`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Print everything, write nothing."),
        click.option("--version", help="Version of the new bundle. Default: the old one with +cal1, +cal2 and so on."),
        click.option(
            "--to", "target", type=click.Path(path_type=Path), help="New folder for the bundle. Default: beside it."
        ),
    ):
        command = option(command)
    return command


class NewBundle(NamedTuple):
    """Where a bundle that is calibrated again goes, and its version."""

    target: Path
    version: str
    dry_run: bool

    @classmethod
    def beside(cls, bundle: Path, was: str, target: Path | None, version: str | None, dry_run: bool) -> "NewBundle":
        """As `--to` and `--version` say, else beside the old one, whose version was `was`. See that it can be written
        there, before any frame is run.

        Raises:
            UsageError: the version is none.
            BundleError: it cannot be written there.
        """
        version = next_in_series(was, "+cal") if version is None else version
        if version.strip() in ("", was):
            raise click.UsageError(f"--version {version!r} tells the new bundle from none; name one other than {was!r}")
        if not version.isprintable():
            raise click.UsageError(f"--version {version!r} is no text of one line; events carry it, name a plain one")
        target = target or _beside(bundle)
        if not dry_run:
            if bundle.resolve() in target.resolve().parents:
                raise BundleError(f"{target} lies in {bundle}, which stays as it is; name a folder beside it with --to")
            require_new_folder(target)
        return cls(target, version, dry_run)

    @property
    def title(self) -> str:
        """What the report is headed."""
        return f"{self.target} {'would be' if self.dry_run else 'is'} written"

    def write(
        self, parent: Bundle, manifest: Manifest, tiles: ProductTiles | None, camera: str | None = None
    ) -> Bundle | None:
        """Write it; None: it is a dry run.

        Raises:
            BundleError: it cannot be written.
        """
        return None if self.dry_run else write_recalibrated(self.target, parent, manifest, tiles, camera)


def odd_ones(pictures: GoodPictures, appearances: Sequence[Appearance]) -> list[str]:
    """Warns of good frames that look like no other.

    Raises:
        InputError: it is a single one: what is plausible would rest on it.
    """
    found = find_outliers(appearances)
    if not found:
        return []
    place, words = next(iter(found.items()))
    file = pictures.files[place]
    if len(found) == 1:
        raise InputError(
            f"{file} does not look like the other {format_count(len(appearances) - 1, 'good frame')}: {words}; remove "
            "it, or if frames like it are to pass, add a second picture that looks like it"
        )
    return [
        f"{len(found)} of {format_count(len(appearances), 'good frame')} look like no other, as {file}: {words}; look "
        "at them, as frames like them pass now"
    ]


def progress(what: str) -> Callable[[Sequence[Path]], Iterable[Path]]:
    console = progress_console()
    return lambda files: track(files, what, console=console, disable=not (console.is_terminal and files))


def _beside(bundle_path: Path) -> Path:
    path = bundle_path if bundle_path.name not in ("", "..") else bundle_path.resolve()
    suffix = SUFFIX if path.name.endswith(SUFFIX) else ""
    return path.with_name(next_in_series(path.name.removesuffix(suffix), "-cal") + suffix)


def widened(before: Plausibility, now: Plausibility) -> list[str]:
    """Warns of good frames by which features may be much farther from the product's, or anywhere."""
    was, is_now = before.plausible.distance, now.plausible.distance
    if was is None:
        return []
    if is_now is None:
        return ["these frames are too few to know the product's features, so another product may pass; give more"]
    if is_now <= FAR_WIDER * was:
        return []
    return [
        f"features may lie {is_now:.3g} from the product's now, where {was:.3g} was the most: frames are few, or "
        "some do not show the product, and others may pass for it; give more, and leave those out"
    ]
