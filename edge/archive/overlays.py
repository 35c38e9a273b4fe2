"""Draws the overlays of the worst pictures and flips. They are inspected again, as the verdicts hold no heatmaps."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from heatline.edge.archive.finding import Finding
from heatline.edge.archive.loading import load, read_ahead
from heatline.edge.archive.plan import Pictures
from heatline.edge.archive.results import Results
from heatline.edge.archive.storage import Storage
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.heatmap_picture import jpeg
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector, InspectionResult

FOLDER = "overlays"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
LONGEST_STEM = 60
JPEG_QUALITY = 90
"""At full size. PNG takes five times the space: 3.5 instead of 0.65 MB for boards of 1600 x 1250 px."""


class Wanted(NamedTuple):
    """A picture whose overlay is wanted."""

    number: int
    picture: str
    content: str | None
    """Hash of the file's bytes when it got its verdict. If they are others now, its overlay must not be drawn."""


Draw = Callable[[str, Sequence[Wanted]], Iterable[tuple[int, bytes | None]]]
"""Inspects pictures with the bundle of a digest and yields, in any order, the number and the overlay as JPEG of each;
None: there is nothing to draw."""


def wanted_overlays(results: Results) -> dict[str, list[Finding]]:
    """Return the pictures whose overlays belong to a report, by the bundle's digest, in the order of their numbers: the
    new bundle's worst pictures, and the worst flips by both bundles. The same verdicts give the same pictures.
    """
    new = {finding.number: finding for finding in results.summary.worst()}
    if results.comparison is None or results.old_digest is None:
        return {results.new_digest: _sorted(new)}
    flips = results.comparison.worst_flips()
    new |= {change.new.number: change.new for change in flips}
    old = {change.old.number: change.old for change in flips}
    return {results.new_digest: _sorted(new), results.old_digest: _sorted(old)}


def write_overlays(
    dest: Storage, results: Results, draw: Draw, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> None:
    """Write the overlays of a report that are not there yet.

    Args:
        progress: called with the number of overlays that are drawn, and of all that are missing.
    Raises:
        StorageError: an overlay cannot be written.
    """
    missing = {digest: _missing(dest, digest, findings) for digest, findings in wanted_overlays(results).items()}
    done, total = 0, sum(map(len, missing.values()))
    for digest, findings in missing.items():
        if not findings:
            continue
        progress(done, total)
        wanted = [Wanted(each.number, each.picture, each.content) for each in findings.values()]
        for number, data in draw(digest, wanted):
            if data is not None:
                dest.write(name_of(digest, findings[number]), data)
            done += 1
            progress(done, total)


def overlay_jpeg(result: InspectionResult) -> bytes | None:
    """Return a result's overlay as JPEG: without a verdict the plain picture, None if it could not be read."""
    if result.frame is None:
        return None
    return jpeg(result.overlay() if result.has_overlay else result.picture, JPEG_QUALITY)


def name_of(digest: str, finding: Finding) -> str:
    """Return the name of an overlay in DEST.

    >>> name_of("ab12", Finding(7, "day 1/böard 7.png", ".", None, "1f", "GOOD", None, None, 0.0, 1.0))
    'overlays/ab12/00000007_b_ard_7.jpg'
    """
    stem = _UNSAFE.sub("_", posixpath.splitext(posixpath.basename(finding.picture))[0])[:LONGEST_STEM]
    return f"{FOLDER}/{digest}/{finding.number:08d}_{stem}.jpg"


def _missing(dest: Storage, digest: str, findings: Iterable[Finding]) -> dict[int, Finding]:
    """Return the pictures whose overlays are not in DEST, by number."""
    there = {posixpath.basename(info.path) for info in dest.entries(f"{FOLDER}/{digest}")}
    return {each.number: each for each in findings if posixpath.basename(name_of(digest, each)) not in there}


def _sorted(findings: dict[int, Finding]) -> list[Finding]:
    return [findings[number] for number in sorted(findings)]


def drawer(bundles: Iterable[Bundle], pictures: Pictures, engine: EngineKind, precision: Precision) -> Draw:
    """Return the function that draws overlays with some bundles."""
    by_digest = {bundle.digest: bundle for bundle in bundles}

    def draw(digest: str, wanted: Sequence[Wanted]) -> Iterator[tuple[int, bytes | None]]:
        bundle = by_digest[digest]
        with BundleInspector(bundle, open_verified_engine(bundle, engine, precision)) as inspector:
            ahead = read_ahead(lambda each: load(pictures, each.number, each.picture), wanted)
            for each, loaded in zip(wanted, ahead, strict=True):
                if loaded.content != each.content:  # the file has changed
                    yield each.number, None
                    continue
                (result,) = inspector.inspect_frames([loaded.frame])
                yield each.number, overlay_jpeg(result)

    return draw
