"""Reads and checks the verdicts of one or two bundles once, part by part, for overlays, report and output."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import msgspec
import pyarrow as pa

from heatline.edge.archive.comparison import CHANGE_RATES, VERDICTS, Change, Comparison, Figures, Summary, findings_of
from heatline.edge.archive.plan import Plan, UsedBundle, WorkerNote, file_of, finished_parts, read_part
from heatline.edge.archive.storage import is_uri, without_password
from heatline.edge.bundle import Bundle
from heatline.edge.bundle.manifest import PRODUCT_TILES, product_picture_of
from heatline.edge.errors import InputError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inference.engine import ONNX_GRAPH, weights_of

AGAIN = "call heatline archive inspect again"
REPORT = "report.html"
GRAPH = "graph"


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
    """In what both bundles differ, as `difference_of` says; None: not known."""

    def bundles(self) -> list[tuple[str, UsedBundle, str]]:
        """Return name, use and digest of each bundle, the new one first. The name has what people typed, or the digest
        if that does not tell them apart.
        """
        used = [(self.new, self.new_digest)]
        if self.old is not None and self.old_digest is not None:
            used.append((self.old, self.old_digest))
        names = [f"{bundle.name} {bundle.version}" for bundle, _ in used]
        if len(used) > 1 and self.called:
            names = [
                f"{name} ({PurePath(self.called[each]).name})" for name, (_, each) in zip(names, used, strict=True)
            ]
        if len(set(names)) < len(names):
            names = [f"{name} ({digest[:8]})" for name, (_, digest) in zip(names, used, strict=True)]
        return [(name, bundle, digest) for name, (bundle, digest) in zip(names, used, strict=True)]


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What the command prints at the end. docs/archive-compare.md describes it."""

    dest: str
    report: str
    """Path or URI of the page."""
    pictures: int
    inspected: int
    """The number of pictures that this run inspected; the others were there."""
    bundles: dict[str, dict[str, Any]]
    """Path, name, version and numbers of verdicts by digest; the first is BUNDLE, the second OLD."""
    against: dict[str, Any] | None
    """The numbers of pictures whose verdict changes from OLD to BUNDLE; None: without --against."""


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


def difference_of(new: Bundle, old: Bundle, engine: EngineKind, precision: Precision) -> list[str]:
    """Return in what two bundles differ.

    The names are `graph`, `grid`, `reference`, `score threshold`, `evidence threshold`, `strong evidence`, `plausible
    frames`. Without the first three, each picture has the same scores with both. Graphs count as different if their
    files are, which two exports of one model can cause too.
    """
    values = [_values(bundle, engine, precision) for bundle in (new, old)]
    return [name for name, value in values[0].items() if value != values[1][name]]


def _values(bundle: Bundle, engine: EngineKind, precision: Precision) -> dict[str, object]:
    manifest = bundle.manifest
    graph = bundle.graph_for(precision)
    files = (ONNX_GRAPH,) if engine == "onnxruntime" else (graph, weights_of(graph))
    return {
        GRAPH: [manifest.files.get(name) for name in files],
        "grid": (manifest.grid, manifest.map, manifest.tensors, manifest.colour),
        "reference": manifest.files.get(product_picture_of("")),
        "score threshold": manifest.calibration.score_threshold,
        "evidence threshold": manifest.calibration.evidence_threshold,
        "strong evidence": manifest.calibration.strong_evidence,
        "plausible frames": (manifest.calibration.plausible, manifest.files.get(PRODUCT_TILES)),
    }


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
            digest: {"path": results.called.get(digest, ""), "name": used.name, "version": used.version}
            | {name.lower(): results.verdicts[digest][name] for name in VERDICTS}
            for _, used, digest in results.bundles()
        },
        against=None if results.comparison is None else _changes(results.comparison, results.differ_in),
    )


def _changes(comparison: Comparison, differ_in: Sequence[str] | None) -> dict[str, Any]:
    total, counts = comparison.figures(None), comparison.counts(None)
    return {
        "compared": total["pictures"] - total["other_files"],
        "other_files": total["other_files"],
        **{name: counts[counted] for name, (counted, _) in CHANGE_RATES.items()},
        "escapes": _mistakes(total["escapes"]),
        "false_rejects": _mistakes(total["false_rejects"]),
        "differ_in": differ_in,
    }


def _mistakes(paired: Figures | None) -> dict[str, int] | None:
    if paired is None:
        return None
    return {"pictures": paired["pictures"]} | {name: paired[name].count for name in ("old", "new", "added", "removed")}


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


def _address_in(folder: str, name: str) -> str:
    """Return the address of a file in a folder: a path, or a URI with its options.

    >>> _address_in("s3://bucket/folder/?region=eu", "a.html"), _address_in("folder", "a.html")
    ('s3://bucket/folder/a.html?region=eu', 'folder/a.html')
    """
    if not is_uri(folder):
        return os.path.join(folder, name)
    path, mark, options = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"
