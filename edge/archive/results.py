"""Reads and checks the verdicts of one or two bundles once, part by part, for overlays and report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import pyarrow as pa

from heatline.edge.archive.comparison import Change, Comparison
from heatline.edge.archive.finding import findings_of
from heatline.edge.archive.plan import Plan, UsedBundle
from heatline.edge.archive.summary import Summary
from heatline.edge.archive.verdicts import WorkerNote, file_of, finished_parts, read_part
from heatline.edge.errors import InputError

AGAIN = "call heatline archive inspect again"


@dataclass
class Workers:
    """Workers on the same model of processor, with the same software and precision."""

    digest: str
    """Of the bundle."""
    processor: str
    heatline: str
    openvino: str
    precision: str
    """The precision that was used; `f32` if the processor does not support the requested one."""
    pictures: int = 0
    hosts: set[str] = field(default_factory=set)
    golden: dict[str, float] = field(default_factory=dict)
    """The largest difference of each output on the golden tiles, of all these workers, as a share of its scale."""

    def add(self, note: WorkerNote, pictures: int) -> None:
        self.pictures += pictures
        self.hosts.add(note.host)
        for output, difference in note.golden.items():
            self.golden[output] = max(self.golden.get(output, 0.0), difference)


@dataclass(frozen=True)
class Results:
    """What was found in a complete DEST."""

    new_digest: str
    old_digest: str | None
    """None: there is no other bundle to compare with."""
    new: UsedBundle
    old: UsedBundle | None
    summary: Summary
    comparison: Comparison | None
    workers: list[Workers]
    """The new bundle's workers first, then by the number of pictures."""
    verdicts: dict[str, Counter[str]]
    """The number of pictures by verdict, for each bundle by its digest."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Paths of the bundles on the command line, by digest."""
    differ_in: Sequence[str] | None = None
    """In what both bundles differ, as `heatline.edge.archive.difference` says; None: not known."""

    def bundles(self) -> list[tuple[str, UsedBundle, str]]:
        """Return name, use and digest of each bundle, the new one first. The names of two bundles have the bundles'
        paths, which people typed, or their digests if those do not tell them apart.
        """
        used = [(self.new, self.new_digest)]
        if self.old is not None and self.old_digest is not None:
            used.append((self.old, self.old_digest))
        names = [f"{bundle.name} {bundle.version}" for bundle, _ in used]
        if len(used) > 1:
            paths = [self.called.get(digest, "") for _, digest in used]
            for marks in ([PurePath(path).name for path in paths], paths):
                if all(marks) and len(set(marks)) == len(marks):
                    names = [f"{name} ({mark})" for name, mark in zip(names, marks, strict=True)]
                    break
        if len(set(names)) < len(names):
            names = [f"{name} ({digest[:8]})" for name, (_, digest) in zip(names, used, strict=True)]
        return [(name, bundle, digest) for name, (bundle, digest) in zip(names, used, strict=True)]


def read_results(
    plan: Plan,
    digest: str,
    against: str | None = None,
    *,
    worst: int = 50,
    called: Mapping[str, str] | None = None,
    differ_in: Sequence[str] | None = None,
) -> Results:
    """Read all verdicts of a bundle, and check that each picture of the plan has exactly one row.

    Memory is bounded by a part and grows with the number of groups.

    Args:
        digest: of the bundle.
        against: digest of the old bundle to compare with.
        worst: how many of the worst pictures and flips to remember.
        called: paths of the bundles on the command line, by digest.
        differ_in: in what both bundles differ; None: not known.
    Raises:
        InputError: a file of verdicts is missing or damaged, or has other pictures than the plan.
    """
    digests = [digest] if against is None else [digest, against]
    for each in digests:
        if surplus := finished_parts(plan.dest, each) - {*range(plan.parts)}:
            raise InputError(
                f"{plan.dest.path(file_of(each, min(surplus)))} is of no part of the plan; delete it, and {AGAIN}"
            )
    verdicts = {each: Counter[str]() for each in digests}
    summary = Summary(worst)
    comparison = None if against is None else Comparison(worst)
    workers: dict[tuple[str, ...], Workers] = {}
    for part in range(plan.parts):
        table, note = _read(plan, digest, part)
        _add(workers, plan, digest, table, note)
        verdicts[digest].update(table.column("verdict").to_pylist())
        findings = findings_of(table)
        for finding in findings:
            summary.add(finding)
        if comparison is not None and against is not None:
            old_table, old_note = _read(plan, against, part)
            _add(workers, plan, against, old_table, old_note)
            verdicts[against].update(old_table.column("verdict").to_pylist())
            is_same = note.processor == old_note.processor
            for old, new in zip(findings_of(old_table), findings, strict=True):
                comparison.add(Change(old, new, is_same))
    bundles = plan.archive.bundles
    return Results(
        digest,
        against,
        bundles[digest],
        None if against is None else bundles[against],
        summary,
        comparison,
        sorted(workers.values(), key=lambda each: (each.digest != digest, -each.pictures, each.processor)),
        verdicts,
        called or {},
        differ_in,
    )


def _read(plan: Plan, digest: str, part: int) -> tuple[pa.Table, WorkerNote]:
    name = file_of(digest, part)
    try:
        table, note = read_part(plan.dest, digest, part)
    except FileNotFoundError as error:
        raise InputError(f"{plan.dest.path(name)} is missing; {AGAIN}") from error
    first = part * plan.archive.part_pictures
    if table.column("number").to_pylist() != list(range(first, first + plan.part_size(part))):
        raise InputError(f"{plan.dest.path(name)} holds other pictures than the plan; delete it, and {AGAIN}")
    return table, note


def _add(workers: dict[tuple[str, ...], Workers], plan: Plan, digest: str, table: pa.Table, note: WorkerNote) -> None:
    precision = table.column("precision")[0].as_py()
    key = digest, note.processor, note.heatline, note.openvino, precision
    if key not in workers:
        workers[key] = Workers(digest, note.processor, note.heatline, note.openvino, precision)
    workers[key].add(note, len(table))
