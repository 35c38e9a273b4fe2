"""`heatline bundle diff`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET, UnsetType
from rich.markup import escape
from rich.table import Table

from edge.bundle import Bundle, GoldenTiles, open_bundle
from edge.bundle.difference import Answers, AnswersDifference, Change, answers_difference, manifest_changes
from edge.cli.bundle_formatting import NOT_KNOWN, describe_attempts, describe_range
from edge.cli.options import engine_option
from edge.cli.output import json_option, print_facts, print_json, table_console, visible
from edge.inference import EngineKind, infer, open_engine
from edge.util.text import format_count

SHA256 = re.compile("[0-9a-f]{64}")
ATTEMPTS = re.compile(r"map_gate\.precisions\.(\w+)\.attempts")
PLAUSIBLE = re.compile(r"(?:.*\.)?plausible(?:\.(\w+))?")
LONGEST_SHOWN = 120
"""Characters of a value for people; --json has all of it."""


@click.command(epilog="Example: heatline bundle diff boards.bundle boards-cal1.bundle")
@click.argument("a_path", metavar="A", type=click.Path(path_type=Path))
@click.argument("b_path", metavar="B", type=click.Path(path_type=Path))
@engine_option
@json_option
def diff(a_path: Path, b_path: Path, kind: EngineKind, as_json: bool) -> None:
    """Tell what changed from bundle A to bundle B: model, calibration, gate, and the verdicts on B's golden tiles.

    Verifies the files of both. Each bundle judges the tiles by its own score threshold.
    """
    a, b = open_bundle(a_path), open_bundle(b_path)
    changes = manifest_changes(a.manifest, b.manifest)
    golden = b.golden()
    hindrance = _hindrance(a, golden)
    answers = None if hindrance else answers_difference(_answers(a, golden, kind), _answers(b, golden, kind))
    if as_json:
        print_json(
            {
                "a": _named(a),
                "b": _named(b),
                "same": a.digest == b.digest,
                "changes": changes,
                "engine": kind,
                "golden_tiles_of_b": answers,
                "not_compared_because": hindrance,
            }
        )
        return
    console = table_console()
    for section, found in {"signature": _signature_changes(a, b), **changes}.items():
        if found:
            console.print(_table(section, [_plausible(each) for each in _attempts_as_one(found, a, b)]))
            console.print()
    if a.digest == b.digest:
        click.echo(f"{a_path} and {b_path} are the same bundle, digest {a.digest}")
    elif answers is None:
        console.print(f"golden tiles of B: {hindrance}", markup=False, highlight=False)
    else:
        print_facts(f"golden tiles of B, both by {kind} in f32", _facts(answers))


def _hindrance(a: Bundle, golden: GoldenTiles) -> str | None:
    """Why A cannot be asked about B's golden tiles, if it cannot."""
    tile, came = a.manifest.grid.tile_px, golden.tiles.shape[1]
    return None if tile == came else f"not compared, as A takes tiles of {tile} px and these are {came} px"


def _answers(bundle: Bundle, golden: GoldenTiles, kind: EngineKind) -> Answers:
    engine = open_engine(kind, bundle.path, bundle.manifest.grid.tile_px)
    return Answers(*infer(engine, golden.tiles), bundle.manifest.calibration.score_threshold)


def _named(bundle: Bundle) -> dict[str, object]:
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "signed_by": None if bundle.signed_by is None else bundle.signed_by.fingerprint,
    }


def _signature_changes(a: Bundle, b: Bundle) -> Sequence[Change]:
    """Not the manifest's, and so apart."""
    signers = [_named(bundle)["signed_by"] or "nobody" for bundle in (a, b)]
    return [] if signers[0] == signers[1] else [Change("signed_by", *signers)]


def _attempts_as_one(changes: Sequence[Change], a: Bundle, b: Bundle) -> list[Change]:
    """With one row for all figures of a precision's attempts; --json has each."""
    rows = {}
    for change in changes:
        found = ATTEMPTS.match(change.key)
        key = found[0] if found else change.key
        rows[key] = Change(key, _attempts(a, found[1]), _attempts(b, found[1])) if found else change
    return list(rows.values())


def _attempts(bundle: Bundle, precision: str) -> str | UnsetType:
    gate = bundle.manifest.map_gate
    if gate is None or precision not in gate.precisions:
        return UNSET
    return describe_attempts(gate.precisions[precision].attempts, gate.tiles)


def _plausible(change: Change) -> Change:
    """With ranges of what frames must look like in words; any other change as it is."""
    found = PLAUSIBLE.fullmatch(change.key)
    return (
        change if found is None else Change(change.key, *(_in_words(found[1], each) for each in (change.a, change.b)))
    )


def _in_words(name: str | None, value: Any) -> Any:
    """A value of the manifest's `plausible`, by its name there, None: all of it. What is none stays as it is: what a
    bundle's provenance says has no fixed form.
    """
    match name, value:
        case None, None:
            return NOT_KNOWN
        case "distance", None:
            return "features of tiles are not known"
        case "distance", int() | float():
            return f"up to {value:.3g}"
        case _, [(int() | float()) as low, None | int() | float() as high]:
            return describe_range(low, high)
    return value


def _table(section: str, changes: Sequence[Change]) -> Table:
    table = Table(title=section, title_justify="left", box=None, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)  # a key that is cut is no key
    table.add_column("A", overflow="fold")
    table.add_column("B", overflow="fold")
    for change in changes:
        table.add_row(escape(visible(change.key)), _shown(change.a), _shown(change.b))
    return table


def _shown(value: Any) -> str:
    if value is UNSET:
        return "-"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if SHA256.fullmatch(text):
        return f"{text[:12]}…"
    text = visible(text)
    return escape(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…")


def _facts(answers: AnswersDifference) -> Mapping[str, object]:
    flips = [answers.answers[tile] for tile in answers.flipped]
    facts: dict[str, object] = {
        "verdicts that flip": f"{len(flips)} of {format_count(answers.tiles, 'tile')}",
        "largest logit difference": f"{answers.largest_logit_difference:.3g}",
        "map correlation": _correlation_in_words(answers),
    }
    for flip in flips:
        facts[f"tile {flip.tile}"] = f"{flip.a} ({flip.a_logit:.3f}) -> {flip.b} ({flip.b_logit:.3f})"
    return facts


def _correlation_in_words(answers: AnswersDifference) -> str:
    if answers.map_correlation is None:
        return "none, as the maps differ in size or one is the same everywhere"
    each = [one for one in answers.answers if one.map_correlation is not None]
    words = f"{answers.map_correlation:.4f} over all cells"
    if not each:
        return words
    lowest = min(each, key=lambda one: one.map_correlation or 0.0)
    return f"{words}; lowest of one tile {lowest.map_correlation:.4f}, tile {lowest.tile}"
