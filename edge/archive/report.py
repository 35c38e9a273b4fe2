"""Writes `report.html` of a complete DEST, one self-contained page, and the overlays that it shows.

The pictures of the overlays are inspected again, as the verdicts hold no heatmaps.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pyarrow.fs import FileType

from heatline.edge.archive.plan import Plan
from heatline.edge.archive.results import ORDER, ORDER_OF_CHANGED, REPORT, SEVERITY, VERDICTS, Finding, Results
from heatline.edge.archive.storage import Storage
from heatline.edge.util.page import jpeg_uri, page_templates
from heatline.edge.util.text import format_count

FOLDER = "overlays"
LONGEST_STEM = 60
MOST_PICTURES = 200
"""Most pictures in the page; the other overlays are in the folder only."""
MOST_GROUPS = 100
"""Most rows of a table of groups."""
LONGER_SIDE_PX = 640
SMALLEST = 0.0005
"""A smaller margin, logits, has no figure: it would be shown as 0."""
MINUS = "\N{MINUS SIGN}"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


Draw = Callable[[str, Sequence[Finding]], Iterable[tuple[Finding, bytes | None]]]
"""Inspects pictures with the bundle of a digest and yields, in any order, each with its overlay as JPEG; None: there is
nothing to draw."""


def wanted_overlays(results: Results) -> dict[str, list[Finding]]:
    """Return the pictures whose overlays belong to a report, by the bundle's digest, in the order of their numbers: the
    new bundle's worst pictures, and the worst flips by both bundles. The same verdicts give the same pictures.
    """
    flips = [] if results.comparison is None else results.comparison.worst_flips()
    wanted = [*results.summary.worst(), *(change.new for change in flips)], [change.old for change in flips]
    by_number = {
        digest: {each.number: each for each in found} for digest, found in zip(results.used, wanted, strict=False)
    }
    return {digest: [found[number] for number in sorted(found)] for digest, found in by_number.items()}


def write_overlays(
    dest: Storage, results: Results, draw: Draw, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> None:
    """Write the overlays of a report that are not there yet.

    Args:
        progress: called with the number of overlays that are drawn, and of all that are missing.
    Raises:
        StorageError: an overlay cannot be written.
    """
    missing = {
        digest: [each for each in findings if dest.kind(name_of(digest, each)) == FileType.NotFound]
        for digest, findings in wanted_overlays(results).items()
    }
    done, total = 0, sum(map(len, missing.values()))
    for digest, findings in missing.items():
        if not findings:
            continue
        progress(done, total)
        for finding, data in draw(digest, findings):
            if data is not None:
                dest.write(name_of(digest, finding), data)
            done += 1
            progress(done, total)


def name_of(digest: str, finding: Finding) -> str:
    """Return the name of an overlay in DEST.

    >>> name_of("ab12", Finding(7, "day 1/böard 7.png", ".", None, "1f", "GOOD", None, None, 0.0, 1.0))
    'overlays/ab12/00000007_b_ard_7.jpg'
    """
    stem = _UNSAFE.sub("_", posixpath.splitext(posixpath.basename(finding.picture))[0])[:LONGEST_STEM]
    return f"{FOLDER}/{digest}/{finding.number:08d}_{stem}.jpg"


# The page.


@dataclass(frozen=True)
class Shown:
    """A bundle's verdict on a picture, with its overlay."""

    digest: str
    finding: Finding
    uri: str | None
    """The overlay as a data URI, made smaller; None: there is none."""

    @property
    def file(self) -> str:
        """Name of the overlay in DEST."""
        return name_of(self.digest, self.finding)


def write_report(plan: Plan, results: Results) -> None:
    """Write the page into DEST. Its size is bounded by `MOST_PICTURES` and `MOST_GROUPS`.

    Raises:
        StorageError: DEST cannot be read or written.
    """
    plan.dest.write(REPORT, make_report(plan, results).encode())


def make_report(plan: Plan, results: Results) -> str:
    """Return the page. Overlays that are missing in DEST are missing in it."""
    dest, comparison = plan.dest, results.comparison
    digests = list(results.used)
    new, old = digests[0], digests[-1]
    changes = [] if comparison is None else comparison.worst_flips()
    flips = [(each, _show(dest, old, each.old), _show(dest, new, each.new)) for each in changes[: MOST_PICTURES // 2]]
    worst = results.summary.worst()
    shown = [_show(dest, new, each) for each in worst[: MOST_PICTURES - 2 * len(flips)]]
    environment = page_templates("heatline.edge.archive")
    environment.filters.update(percent=percent, signed=signed, interval=format_interval, margin=format_margin)
    environment.globals.update(
        VERDICTS=VERDICTS,
        SEVERITY=SEVERITY,
        ORDER_OF_CHANGED=ORDER_OF_CHANGED,
        ORDER=ORDER,
        LONGER_SIDE_PX=LONGER_SIDE_PX,
    )
    return environment.get_template("report.html.jinja").render(
        archive=plan.archive,
        title=" against ".join(name for name, _, _ in results.bundles()),
        names=[name for name, _, _ in reversed(results.bundles())],
        bundles=results.bundles(),
        results=results,
        comparison=comparison,
        summary=results.summary,
        change=None if comparison is None else comparison.figures(None),
        changed_groups=[] if comparison is None else comparison.worst_groups(MOST_GROUPS),
        total=results.summary.figures(None),
        groups=results.summary.worst_groups(MOST_GROUPS),
        all_groups=len(results.summary.groups),
        flips=flips,
        worst=shown,
        more_flips=0 if comparison is None else comparison.counts(None)["flip"] - len(flips),
        more_worst=len(worst) - len(shown),
        warnings=list(_warnings(results)),
        folder=dest.root if dest.is_local else None,
    )


def _warnings(results: Results) -> Iterator[str]:
    """Yield what a reader must know before the figures."""
    if results.comparison is not None:
        counts = results.comparison.counts(None)
        if others := counts["other file"]:
            them = "it" if others == 1 else "them"
            yield (
                f"{format_count(others, 'picture', ',')} had another content when the other bundle inspected {them}, "
                f"or could be read in one run only. The comparison leaves {them} out, as the bundle is not the cause."
            )


def _show(dest: Storage, digest: str, finding: Finding) -> Shown:
    try:
        data = dest.read(name_of(digest, finding))
    except FileNotFoundError:
        return Shown(digest, finding, None)
    bgr = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return Shown(digest, finding, jpeg_uri(bgr, LONGER_SIDE_PX))


def percent(share: float) -> str:
    """Return a share in percent.

    >>> percent(0.00123), percent(0.503), percent(1.0), percent(2e-9)
    ('0.12 %', '50.3 %', '100 %', '0 %')
    """
    value = 100 * share
    text = f"{value:.3g} %" if abs(value) >= 10 else f"{value:.2g} %" if abs(value) >= 1e-4 else "0 %"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """Return a change or a margin with its sign.

    >>> signed(1.234), signed(0.001), signed(3)
    ('+1.23', '+0.001', '+3')
    """
    text = f"{value:+,}" if isinstance(value, int) else f"{value:+.3f}" if abs(value) < 0.1 else f"{value:+.2f}"
    return text.replace("-", MINUS)


def format_margin(margin: float) -> str:
    """Return a score minus its threshold.

    >>> format_margin(1.234), format_margin(-8.9e-16)
    ('+1.23 from the threshold', 'on the threshold')
    """
    return "on the threshold" if abs(margin) < SMALLEST else f"{signed(margin)} from the threshold"


def format_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of shares in percent; nothing if it is not known.

    >>> format_interval((0.001, 0.02)), format_interval(None)
    ('0.1 to 2 %', '')
    """
    if interval is None:
        return ""
    low, high = (percent(end) for end in interval)
    return f"{low.removesuffix(' %')} to {high}"
