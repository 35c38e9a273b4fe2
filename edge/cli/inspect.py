"""`heatline inspect`."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from edge.bundle import open_bundle, open_verified_engine
from edge.cli.options import engine_option, precision_option
from edge.cli.output import json_option, print_json
from edge.colour import to_rgb
from edge.delivery.numbering import Count
from edge.errors import EngineError, InputError
from edge.frames import BadFrame, Frame, Stamp
from edge.heatmap_picture import overlay, png
from edge.images import list_images, read_image
from edge.inference import EngineKind, Precision
from edge.inspection.inspector import Inspector, PendingFrame
from edge.inspection.outcome import Outcome, Unjudged, outcome_of
from edge.inspection.setup import Setup
from edge.service.events import verdict_message
from edge.util.os_errors import writing
from edge.util.text import format_count
from edge.wire.events import VerdictEvent


@click.command(epilog="Example: heatline inspect boards.bundle photos/ --out found/")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for pictures and verdicts.jsonl.")
@engine_option
@precision_option
@json_option
def inspect(
    bundle_path: Path, images: tuple[Path, ...], out: Path, kind: EngineKind, precision: Precision, as_json: bool
) -> None:
    """Inspect IMAGES, files or folders of them, without a line.

    Writes one picture per image, heatmap and regions drawn in, and one event per image, as JSON, to verdicts.jsonl.
    An image that cannot be inspected gets NO_VERDICT, and the exit code is then 9.
    """
    files = [file for path in images for file in (list_images(path) if path.is_dir() else [path])]
    bundle = open_bundle(bundle_path)
    verified = open_verified_engine(bundle, kind, precision)
    inspector = Inspector(bundle.manifest, verified.engine, plausibility=bundle.plausibility())
    setup = Setup(bundle, verified, inspector, acting=False)
    boot_id, count = uuid.uuid4().hex, Count(journal_id=None)
    unjudged = 0
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / "verdicts.jsonl").open("wb") as lines:
            for pending, outcome in _outcomes(files, inspector):
                event = verdict_message(boot_id, replace(outcome, setup=setup)).event
                assert isinstance(event, VerdictEvent)
                event = count.next(event)
                lines.write(msgspec.json.encode(event) + b"\n")
                lines.flush()
                if isinstance(pending, PendingFrame) and outcome.judgement is not None:
                    picture = overlay(
                        to_rgb(pending.frame.image, pending.frame.pixel_format),
                        outcome.judgement.heatmap,
                        pending.stitcher.cell_px,
                        outcome.judgement.regions,
                        setup.scale,
                    )
                    (out / f"{event.frame_id:05d}_{Path(str(event.source)).stem}.png").write_bytes(png(picture))
                else:
                    unjudged += 1
                print_json(event) if as_json else click.echo(_sentence(event))
    if unjudged:
        raise InputError(f"{unjudged} of {format_count(len(files), 'image')} got no verdict; each says why above")


def _outcomes(files: Iterable[Path], inspector: Inspector) -> Iterator[tuple[PendingFrame | BadFrame, Outcome]]:
    """Every file's outcome, in order; while one is judged, the next is with the engine."""
    ahead: PendingFrame | BadFrame | None = None
    for number, path in enumerate(files, start=1):
        started = _start(path, number, inspector)
        if ahead is not None:
            yield ahead, _finish(ahead, inspector)
        ahead = started
    if ahead is not None:
        yield ahead, _finish(ahead, inspector)


def _start(path: Path, number: int, inspector: Inspector) -> PendingFrame | BadFrame:
    try:
        image, pixel_format = read_image(path)
    except InputError as error:
        return BadFrame(Stamp("inspect", number, str(path)), "unreadable", str(error))
    return inspector.start(Frame(Stamp("inspect", number, str(path)), image, pixel_format))


def _finish(started: PendingFrame | BadFrame, inspector: Inspector) -> Outcome:
    if isinstance(started, BadFrame):
        return Outcome(started.stamp, unjudged=Unjudged("failed", started.reason, started.detail))
    try:
        judgement = inspector.finish(started)
    except EngineError as error:
        return Outcome(started.frame.stamp, unjudged=Unjudged("failed", "engine", str(error)))
    return outcome_of(started.frame.stamp, judgement)


def _sentence(event: VerdictEvent) -> str:
    if event.verdict == "NO_VERDICT":
        return f"NO_VERDICT  {event.source}: {event.detail}"
    places = "; ".join(f"({region.peak_xy[0]}, {region.peak_xy[1]}) {region.score:.1f}" for region in event.regions[:5])
    more = f" and {len(event.regions) - 5} more" if len(event.regions) > 5 else ""
    score = f"score {event.frame_score:.2f}, threshold {event.score_threshold:.2f}"
    return f"{event.verdict:<11} {event.source}: {score}" + (f"; regions at {places}{more}" if places else "")
