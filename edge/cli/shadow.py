"""`heatline shadow`: compares a line's bundle with one that judges the same frames beside it, and exchanges them."""

from pathlib import Path

import click

from heatline.edge.cli.line import say_active, user_name
from heatline.edge.cli.output import Rows, json_option, print_report, reply_timeout_option, share_text
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.describe import describe_bundle
from heatline.edge.errors import ConfigError, JournalError
from heatline.edge.monitor.activation import SHADOW, activate, rewrite
from heatline.edge.monitor.marks import Review, combine
from heatline.edge.monitor.shadow import compare
from heatline.edge.target import file_of, journal_of
from heatline.edge.wire.events import ReviewEvent, event_from

MOST_MARKS = 20_000


@click.command(
    epilog="\n\nExample:\n\n\b\n  heatline shadow line1 --set new.bundle\n  heatline shadow line1\n"
    "  heatline shadow line1 --activate"
)
@click.argument("line")
@click.option("--set", "bundle", type=click.Path(path_type=Path), help="Make this bundle the shadow.")
@click.option("--stop", is_flag=True, help="Take the shadow out of the line's file.")
@click.option("--activate", "forth", is_flag=True, help="Make the shadow the line's bundle, and that one the shadow.")
@click.option("--back", is_flag=True, help="Return to the bundle before the last activation.")
@reply_timeout_option(60.0, "until a change is active or refused")
@json_option
def shadow(
    line: str, bundle: Path | None, stop: bool, forth: bool, back: bool, timeout_s: float, as_json: bool
) -> None:
    """Compare LINE's bundle with its shadow, a bundle that judges the same frames in idle time.

    Prints the share of frames that each rejects, how often they differ, and what reviewers said of those frames. The
    options change the line's file, and have the running line read it; if the line refuses it, the file is restored.

    LINE is a line's name or its TOML file, on this PC.
    """
    if (bundle is not None) + stop + forth + back > 1:
        raise click.UsageError("name one of --set, --stop, --activate and --back")
    if "://" in line:
        raise ConfigError(f"{line} is an address, and this is read from the disk; name the line or its file")
    if forth or back:
        say_active(activate(line, user_name(), back=back, timeout_s=timeout_s))
    elif stop or bundle is not None:
        say_active(rewrite(line, {SHADOW: bundle and bundle.absolute()}, user_name(), timeout_s=timeout_s))
    else:
        _report(line, as_json)


def _report(line: str, as_json: bool) -> None:
    found = compare(file_of(line), _reviews(line).get)
    differ, frames, reviewed = found["differ"], found["frames"], found["reviewed"]
    cells = [
        [side, describe_bundle(found[side]["bundle"]), share_text(found[side]["rejected"]), str(found[side]["right"])]
        for side in ("line", "shadow")
    ]
    facts = {f"line {both.replace(' ', ', shadow ')}": count for both, count in sorted(found["counts"].items())}
    title = f"{frames} frames judged by both, {found['dropped']} left out by the shadow; they differ on {differ}"
    rows = Rows(("", "bundle", "rejected", f"right of {reviewed} reviewed"), cells)
    print_report(found, as_json, title, facts, rows)


def _reviews(line: str) -> dict[str, Review]:
    """Return the reviews that the line's journal holds, by picture; none if there is no journal."""
    try:
        with JournalReader.open_file(journal_of(line)) as journal:
            events = map(event_from, (record.header for record in journal.newest(MOST_MARKS, ["review"])))
            return combine(event for event in events if isinstance(event, ReviewEvent))
    except JournalError as error:
        if error.kind != "missing":
            raise
        return {}
