"""What the command prints at the end: the figures of the page that a script decides by."""

import os
from collections.abc import Sequence

import msgspec

from heatline.edge.archive import comparison
from heatline.edge.archive.report import REPORT
from heatline.edge.archive.results import Results
from heatline.edge.archive.storage import is_uri, without_password


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of a bundle in DEST."""

    path: str
    """As on the command line."""
    name: str
    version: str
    good: int
    defect: int
    no_verdict: int


class Mistakes(msgspec.Struct, frozen=True, kw_only=True):
    """Escapes or false rejects of both bundles, on the same labelled pictures."""

    pictures: int
    """Pictures with the label to which at least one bundle gives a verdict."""
    old: int
    new: int
    added: int
    """Only BUNDLE makes them: the new escapes, or the new false rejects."""
    removed: int
    """Only OLD makes them."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of pictures whose verdict changes from OLD to BUNDLE. docs/archive-compare.md describes them."""

    compared: int
    other_files: int
    """Pictures whose file changed between the two runs, or could be read in one only: in no other number."""
    flips: int
    defect_to_good: int
    good_to_defect: int
    lost: int
    gained: int
    elsewhere: int
    escapes: Mistakes | None
    """None: no picture with label `defective` has a verdict."""
    false_rejects: Mistakes | None
    """None: no picture with label `good` has a verdict."""
    differ_in: Sequence[str] | None
    """As `heatline.edge.archive.difference` says."""


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What DEST holds at the end."""

    dest: str
    report: str
    """Path or URI of the page."""
    pictures: int
    inspected: int
    """The number of pictures that this run inspected; the others were there."""
    bundles: dict[str, Counts]
    """By digest; the first is BUNDLE, the second OLD."""
    against: Changes | None
    """None: without --against."""


def outcome_of(out: str, results: Results, inspected: int) -> Inspected:
    """Return what the command prints.

    Args:
        out: DEST, a path or a URI.
        inspected: the number of pictures that this run inspected.
    """
    dest = without_password(out)
    return Inspected(
        dest=dest,
        report=_address_in(dest, REPORT),
        pictures=results.verdicts[results.new_digest].total(),
        inspected=inspected,
        bundles={
            digest: Counts(
                path=results.called.get(digest, ""),
                name=used.name,
                version=used.version,
                good=results.verdicts[digest]["GOOD"],
                defect=results.verdicts[digest]["DEFECT"],
                no_verdict=results.verdicts[digest]["NO_VERDICT"],
            )
            for _, used, digest in results.bundles()
        },
        against=None if results.comparison is None else _changes(results.comparison.total(), results.differ_in),
    )


def _changes(total: comparison.Figures, differ_in: Sequence[str] | None) -> Changes:
    flips = {(old, new): count for old, row in total.transitions.items() for new, count in row.items() if old != new}
    return Changes(
        compared=total.pictures - total.other_files,
        other_files=total.other_files,
        flips=sum(flips.values()),
        defect_to_good=flips["DEFECT", "GOOD"],
        good_to_defect=flips["GOOD", "DEFECT"],
        lost=sum(count for (_, new), count in flips.items() if new == "NO_VERDICT"),
        gained=sum(count for (old, _), count in flips.items() if old == "NO_VERDICT"),
        elsewhere=total.elsewhere,
        escapes=_mistakes(total.escapes),
        false_rejects=_mistakes(total.false_rejects),
        differ_in=differ_in,
    )


def _mistakes(paired: comparison.Paired | None) -> Mistakes | None:
    if paired is None:
        return None
    return Mistakes(
        pictures=paired.pictures,
        old=paired.old.count,
        new=paired.new.count,
        added=paired.added.count,
        removed=paired.removed.count,
    )


def _address_in(folder: str, name: str) -> str:
    """Return the address of a file in a folder: a path, or a URI with its options.

    >>> _address_in("s3://bucket/folder/?region=eu", "a.html"), _address_in("folder", "a.html")
    ('s3://bucket/folder/a.html?region=eu', 'folder/a.html')
    """
    if not is_uri(folder):
        return os.path.join(folder, name)
    path, mark, options = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"
