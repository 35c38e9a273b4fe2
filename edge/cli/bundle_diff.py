"""`heatline bundle diff`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET
from rich.markup import escape
from rich.table import Table

from heatline.edge.bundle import Bundle, GoldenTiles, open_bundle
from heatline.edge.bundle.difference import Answers, AnswersDifference, Change, answers_difference, manifest_changes
from heatline.edge.cli.options import engine_option
from heatline.edge.cli.output import json_option, print_facts, print_json, table_console, visible
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.util.text import format_count

SHA256 = re.compile("[0-9a-f]{64}")
ATTEMPTS = re.compile(r"map_gate\.precisions\.\w+\.attempts")
"""Dozens of figures, which --json prints."""
LONGEST_SHOWN = 120
"""Characters of a value in the table; --json prints all of them."""


@click.command(epilog="Example: heatline bundle diff boards.bundle boards-cal1.bundle")
@click.argument("a_path", metavar="A", type=click.Path(path_type=Path))
@click.argument("b_path", metavar="B", type=click.Path(path_type=Path))
@engine_option
@json_option
def diff(a_path: Path, b_path: Path, kind: EngineKind, as_json: bool) -> None:
    """Print what changed from bundle A to bundle B: model, calibration, gate, and the verdicts on B's golden tiles.

    Verifies the files of both. Each bundle judges the tiles by its own score threshold.
    """
    a, b = open_bundle(a_path), open_bundle(b_path)
    changes = manifest_changes(a.manifest, b.manifest)
    golden = b.golden()
    expected_px, tile_px, obstacle = a.manifest.grid.tile_px, golden.tiles.shape[1], None
    if tile_px != expected_px:
        obstacle = f"not compared, as A takes tiles of {expected_px} px and these are {tile_px} px"
    elif golden.difference is None and a.manifest.tensors.difference is not None:
        obstacle = "not compared, as A compares tiles with a reference, and these have none"
    answers = None if obstacle else answers_difference(_answers(a, golden, kind), _answers(b, golden, kind))
    if as_json:
        print_json(
            {
                "a": _identify(a),
                "b": _identify(b),
                "same": a.digest == b.digest,
                "changes": changes,
                "engine": kind,
                "golden_tiles_of_b": answers,
                "not_compared_because": obstacle,
            }
        )
        return
    console = table_console()
    for section, found in {"signature": _signature_changes(a, b), **changes}.items():
        if shown := [each for each in found if not ATTEMPTS.match(each.key)]:
            console.print(_table(section, shown))
            console.print()
    if a.digest == b.digest:
        click.echo(f"{a_path} and {b_path} are the same bundle, digest {a.digest}")
    elif answers is None:
        console.print(f"golden tiles of B: {obstacle}", markup=False, highlight=False)
    else:
        print_facts(f"golden tiles of B, both by {kind} in f32", _facts(answers))


def _answers(bundle: Bundle, golden: GoldenTiles, kind: EngineKind) -> Answers:
    engine = open_engine(kind, bundle.path, bundle.manifest.grid.tile_px)
    return Answers(*infer(engine, golden.tiles, golden.difference), bundle.manifest.calibration.score_threshold)


def _identify(bundle: Bundle) -> dict[str, object]:
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "signed_by": None if bundle.signed_by is None else bundle.signed_by.fingerprint,
    }


def _signature_changes(a: Bundle, b: Bundle) -> Sequence[Change]:
    """Return the change of the signature, which is not in the manifest."""
    signers = [_identify(bundle)["signed_by"] or "nobody" for bundle in (a, b)]
    return [] if signers[0] == signers[1] else [Change("signed_by", *signers)]


def _table(section: str, changes: Sequence[Change]) -> Table:
    table = Table(title=section, title_justify="left", box=None, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)  # a key must not be cut
    table.add_column("A", overflow="fold")
    table.add_column("B", overflow="fold")
    for change in changes:
        table.add_row(escape(visible(change.key)), _format_value(change.a), _format_value(change.b))
    return table


def _format_value(value: Any) -> str:
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
        "map correlation": "none, as the maps differ in size or one is the same everywhere"
        if answers.map_correlation is None
        else f"{answers.map_correlation:.4f} over all cells",
    }
    for flip in flips:
        facts[f"tile {flip.tile}"] = f"{flip.a} ({flip.a_logit:.3f}) -> {flip.b} ({flip.b_logit:.3f})"
    return facts
