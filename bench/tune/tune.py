"""`heatline bench tune`: the search, what its best is worth beside the present settings, and the file for the line."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from bench.spread import Spread
from bench.spread import turns as in_order
from bench.tune.candidates import candidates, spelled_out
from bench.tune.on_the_line import OnTheLine, on_the_line
from bench.tune.search import RANKED_AT, Tried, opened, search
from bench.tune.shown import Shown, shown_by
from bench.tune.trial import Answers
from edge.bundle import Bundle, open_bundle
from edge.config import LineConfig, engine_keys_set, load_config
from edge.config.engine import EngineConfig
from edge.config.products import ThresholdsConfig
from edge.config.tuned import Tuned, measured_with, tuned_file, write_tuned
from edge.errors import BenchError, BundleError
from edge.inference import Precision
from edge.util.processor import cores

TURNS = 5
"""Of present and chosen settings. A difference counts that all of them show: by chance 1 in 32 would."""
TURN_SECONDS = 6
"""Over those of a candidate in the first round: the frames of a turn, which starts the service anew."""
MAY_LOSE_IN = 1
"""Of the turns: what else the machine does may lose a frame."""
LEAST_GAIN = 0.02
"""What is less is none."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The present settings, or the chosen ones, in all turns."""

    engine: EngineConfig
    latency_p50_ms: Spread
    """By turns, of a frame at the asked rate, from when it was due to the receipt of its event."""
    latency_p90_ms: Spread
    inspected_fps: Spread
    """Frames of all cameras together, by turns."""
    lost: int
    sustains: bool
    """Whether no frame was lost, but in one turn at most."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both in the real service, in turns, after the search: its best was also lucky, and had the cores for itself."""

    present: Side
    chosen: Side
    latency_p50: Spread
    """Chosen over present, turn by turn."""
    latency_p90: Spread
    inspected_fps: Spread
    turns: int
    earlier_in: int
    """Turns in which the chosen ones' p90 was lower."""
    more_in: int
    """Turns in which they inspected more frames."""


class Tune(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, and what was chosen."""

    line: str
    bundle: str
    model: str
    digest: str
    frames: list[str]
    cores: int
    present: EngineConfig
    present_by: str
    """The file that says so."""
    tried: list[Tried]
    chosen: EngineConfig
    comparison: Comparison | None
    """None: the search came to the present settings."""
    why: str
    """Why these."""
    written_to: str | None
    """None: nothing was written."""


def measure_tune(
    bundle_path: Path,
    line: Path,
    *,
    precisions: Sequence[Precision],
    frame_hw: tuple[int, int] | None,
    rate_fps: float | None,
    seconds: float,
    dry_run: bool,
    turns: int = TURNS,
    say: Callable[[str], None],
) -> Tune:
    """Find the best settings for a bundle with the frames of a line, and write them beside the line's file.

    Args:
        precisions: to choose among; none: all that the bundle has. One that the line's file sets counts in any case.
        frame_hw, rate_fps: of all cameras, whatever the line's file says; None: as it says.
        seconds: that each is looked at in the first round.
        turns: of present and chosen settings at the end.
    Raises:
        BundleError, ConfigError, CameraError, EngineError: the line could not be run with this bundle.
        BenchError: something cannot be known, or the file cannot be written.
    """
    from edge.inference.devices import devices

    bundle = open_bundle(bundle_path)
    config = _with_bundle(load_config(line), bundle_path)
    in_force = config.engine_for(bundle.digest)
    present = spelled_out(in_force.settings, cores())
    if in_force.not_tuned is not None:
        say(in_force.not_tuned)
    own = engine_keys_set(line)
    if precisions and "precision" in own and set(precisions) != {present.precision}:
        raise BenchError(
            f"{line} sets engine.precision = {present.precision!r}, which counts whatever is tuned; take it out to "
            "have the precision chosen, or leave --precision out"
        )
    shown = shown_by(config, bundle, frame_hw=frame_hw, rate_fps=rate_fps)
    now = Tried(engine=present)
    with opened(now, config) as setup:
        if setup is None:
            raise BenchError(f"the present settings, {present}, cannot be used on this machine: {now.left_out}")
        most_tiles = max(
            len(setup.inspector.stitcher(one.picture.shape[:2], setup.areas[one.camera]).grid) for one in shown
        )
    if "precision" in own:
        precisions = [present.precision]
    wanted, left_out = _passed(bundle, precisions or bundle.manifest.precisions)
    if not wanted:
        raise BundleError(
            f"{bundle.path} has nothing to choose from in {' or '.join(precisions)}: {left_out[0].left_out}; name "
            "another --precision, or leave it out"
        )
    tried = [
        Tried(engine=engine)
        for engine in candidates(
            in_force.settings,
            own,
            cores=cores(),
            precisions=wanted,
            devices=devices(),
            most_tiles=most_tiles,
        )
    ]
    if present not in [one.engine for one in tried]:
        tried.append(now)
    say(f"{', '.join(map(str, shown))}; at most {most_tiles} tiles; {cores()} cores; now: {present}")
    answers = Answers(bundle)
    best = search(tried, config, shown, answers, seconds=seconds, say=say)
    assert best is not None, "the present settings can be used"
    comparison = None
    chosen, why = present, "the search came to the present settings"
    if best.engine != present:
        say(f"present settings and {best.engine}, each in the whole service, in turns")
        comparison = compare(
            present, best.engine, config, bundle, shown, answers, seconds=TURN_SECONDS * seconds, turns=turns, say=say
        )
        better, why = is_better(comparison)
        if better:
            chosen = best.engine
    written = None
    # One that is there for another machine or version is replaced, even by what is in force anyway.
    if not dry_run and (chosen != present or in_force.not_tuned is not None):
        written = _write(line, bundle, chosen, shown)
    return Tune(
        line=str(line),
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        digest=bundle.digest,
        frames=[str(one) for one in shown],
        cores=cores(),
        present=present,
        present_by=in_force.tuned_by or str(line),
        tried=[*tried, *left_out],
        chosen=chosen,
        comparison=comparison,
        why=why,
        written_to=None if written is None else str(written),
    )


def compare(
    present: EngineConfig,
    chosen: EngineConfig,
    config: LineConfig,
    bundle: Bundle,
    shown: Sequence[Shown],
    answers: Answers,
    *,
    seconds: float,
    turns: int,
    say: Callable[[str], None],
) -> Comparison:
    """Both in turns, each in a service that is started for it.

    Raises:
        BenchError: they do not answer the same, or the service failed with one.
    """
    seen: dict[EngineConfig, list[OnTheLine]] = {present: [], chosen: []}
    for number, order in enumerate(in_order(seen, turns), 1):
        for engine in order:
            seen[engine].append(on_the_line(engine, config, bundle, shown, answers, seconds=seconds))
        say(f"  turn {number} of {turns}: " + "; ".join(_in_words(each[-1]) for each in seen.values()))
    pairs = list(zip(seen[present], seen[chosen], strict=True))

    def ratio(of: Callable[[OnTheLine], float]) -> Spread:
        return Spread.of([of(after) / of(before) for before, after in pairs])

    return Comparison(
        present=_side(present, seen[present]),
        chosen=_side(chosen, seen[chosen]),
        latency_p50=ratio(_p50_ms),
        latency_p90=ratio(_p90_ms),
        inspected_fps=ratio(lambda one: one.inspected_fps),
        turns=turns,
        earlier_in=sum(_p90_ms(after) < _p90_ms(before) for before, after in pairs),
        more_in=sum(after.inspected_fps > before.inspected_fps for before, after in pairs),
    )


def is_better(comparison: Comparison) -> tuple[bool, str]:
    """Whether the chosen settings are better by more than chance, and why or why not, in words."""
    present, chosen, turns = comparison.present, comparison.chosen, comparison.turns
    if chosen.sustains and not present.sustains:
        return True, "they keep up with the asked rate, and the present ones do not"
    if present.sustains and not chosen.sustains:
        return False, "they did not keep up with the asked rate any more"
    if chosen.sustains:
        count, gain = comparison.earlier_in, 1 - comparison.latency_p90.median
        of, by = "p90 of the latency was lower", "lower" if gain >= 0 else "higher"
    else:
        count, gain = comparison.more_in, comparison.inspected_fps.median - 1
        of, by = "more frames were inspected", "more" if gain >= 0 else "fewer"
    better = count == turns and gain >= LEAST_GAIN
    than_chance = "" if better else f"; it takes all {turns} and {LEAST_GAIN:.0%} to be more than chance"
    return better, f"{of} in {count} of {turns} turns, at the median {abs(gain):.0%} {by}{than_chance}"


def _with_bundle(config: LineConfig, path: Path) -> LineConfig:
    """The configuration of the product that a bundle is for; else the line's, with that bundle."""
    names: list[str | None] = [product.name for product in config.products]
    for name in names or [None]:
        of_product = config.of_product(name)
        if of_product.bundle.resolve() == path.resolve():
            return of_product
    # The line's thresholds are logits of another bundle.
    return replace(config.of_product(config.product), bundle=path.absolute(), thresholds=ThresholdsConfig())


def _passed(bundle: Bundle, precisions: Sequence[Precision]) -> tuple[list[Precision], list[Tried]]:
    """Those of the precisions that the bundle's gate passed; and the others, each with the reason."""
    wanted, left_out = list[Precision](), list[Tried]()
    for precision in dict.fromkeys(precisions):
        why = bundle.manifest.fails(precision)
        if precision not in bundle.manifest.precisions:
            why = f"the bundle has none: {bundle.manifest.why_without(precision)}"
        if why is None:
            wanted.append(precision)
        else:
            left_out.append(Tried(engine=EngineConfig(precision=precision), left_out=why))
    return wanted, left_out


def _write(line: Path, bundle: Bundle, chosen: EngineConfig, shown: Sequence[Shown]) -> Path:
    tuned = Tuned(
        bundle=bundle.digest,
        **measured_with(chosen),
        frames=[str(one) for one in shown],
        at_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        engine=chosen,
    )
    try:
        written = write_tuned(line, tuned)
    except OSError as error:
        raise BenchError(
            f"{tuned_file(line)} cannot be written ({error.strerror}); run it as who may write there, or with --dry-run"
        ) from error
    now = load_config(line).engine_for(bundle.digest)
    if now.settings != chosen:
        raise BenchError(f"{written} is written, and the line would use {now.settings} all the same: {now.not_tuned}")
    return written


def to_facts(found: Tune) -> dict[str, object]:
    """The same for people."""
    facts: dict[str, object] = {
        "frames": f"{'; '.join(found.frames)}; by {found.model} ({found.bundle}), {found.cores} cores",
        **{str(one.engine): one.in_words() for one in sorted(found.tried, key=_place)},
        "present": f"{found.present}, as {found.present_by} says",
        "chosen": f"{found.chosen}: {found.why}",
    }
    if (both := found.comparison) is not None:
        before, after = both.present, both.chosen
        facts["measured again, in turns"] = (
            f"in the whole service; median (lowest to highest) of {both.turns} turns; {after.engine} over present"
        )
        facts["latency of a frame"] = (
            f"p50 {before.latency_p50_ms.median:.1f} -> {after.latency_p50_ms.median:.1f} ms, {both.latency_p50:.3f}; "
            f"p90 {before.latency_p90_ms.median:.1f} -> {after.latency_p90_ms.median:.1f} ms, {both.latency_p90:.3f}"
        )
        facts["inspected"] = (
            f"{before.inspected_fps.median:.2f} -> {after.inspected_fps.median:.2f} frames/s, {both.inspected_fps:.3f}"
        )
    for side in (both.present, both.chosen) if both is not None else ():
        if not side.sustains:
            facts[f"not sustained by {side.engine}"] = f"{side.lost} frames were lost at the asked rate"
    facts["written to"] = found.written_to or "nothing"
    if found.written_to is not None:
        facts["in force"] = "after a reload or a restart of the line"
    return facts


def _place(one: Tried) -> tuple[bool, float, float]:
    """Those that got farthest come first."""
    return one.left_out is not None, -len(one.latencies_ms), one.latency_ms()


def _side(engine: EngineConfig, turns: Sequence[OnTheLine]) -> Side:
    return Side(
        engine=engine,
        latency_p50_ms=Spread.of([_p50_ms(one) for one in turns]),
        latency_p90_ms=Spread.of([_p90_ms(one) for one in turns]),
        inspected_fps=Spread.of([one.inspected_fps for one in turns]),
        lost=sum(one.lost for one in turns),
        sustains=sum(one.lost > 0 for one in turns) <= MAY_LOSE_IN,
    )


def _p50_ms(one: OnTheLine) -> float:
    return float(np.percentile(one.latencies_ms, 50))


def _p90_ms(one: OnTheLine) -> float:
    """A turn has few frames: a higher percentile would be that of its slowest one."""
    return float(np.percentile(one.latencies_ms, RANKED_AT))


def _in_words(one: OnTheLine) -> str:
    lost = f", {one.lost} frames lost" if one.lost else ""
    return f"p50 {_p50_ms(one):.1f} ms, p90 {_p90_ms(one):.1f} ms{lost}"
