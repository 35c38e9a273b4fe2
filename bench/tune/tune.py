"""`heatline bench tune`: search settings, compare the best with the present ones, and write them for the line."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from heatline.bench.spread import Spread, interleaved
from heatline.bench.tune.candidates import candidates, spelled_out
from heatline.bench.tune.on_the_line import OnTheLine, on_the_line
from heatline.bench.tune.search import RANKED_AT, Tried, opened, search
from heatline.bench.tune.shown import Shown, shown_by
from heatline.bench.tune.trial import Answers
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.config import LineConfig, engine_keys_set, load_config
from heatline.edge.config.engine import EngineConfig
from heatline.edge.config.products import ThresholdsConfig
from heatline.edge.config.tuned import Tuned, measured_with, tuned_file, write_tuned
from heatline.edge.errors import BenchError, BundleError
from heatline.edge.inference import Precision
from heatline.edge.util.process import cores

ROUNDS = 5
"""Rounds of present and chosen settings. A difference counts if all rounds show it: 1 in 32 by chance."""
ROUND_SECONDS = 6
"""Length of a round's run of the service, relative to that of a candidate in the first round of the search."""
MAY_LOSE_IN = 1
"""Rounds in which frames may be lost, as the machine may do something else."""
LEAST_GAIN = 0.02
"""A smaller gain does not count."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the present settings or of the chosen ones in all rounds."""

    engine: EngineConfig
    latency_p50_ms: Spread
    """By rounds, of a frame at the line's rate, from when it was due to the receipt of its event."""
    latency_p90_ms: Spread
    inspected_fps: Spread
    """Frames per second of all cameras together, by rounds."""
    lost: int
    sustains: bool
    """Whether frames were lost in one round at most."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both in the real service, in interleaved rounds after the search, whose best was also lucky and had all cores."""

    present: Side
    chosen: Side
    latency_p50: Spread
    """Chosen over present, by rounds."""
    latency_p90: Spread
    inspected_fps: Spread
    turns: int
    """Number of rounds."""
    earlier_in: int
    """Rounds in which the p90 of the chosen settings was lower."""
    more_in: int
    """Rounds in which they inspected more frames."""


class Tune(msgspec.Struct, frozen=True, kw_only=True):
    """All results, and the chosen settings."""

    line: str
    bundle: str
    model: str
    digest: str
    frames: list[str]
    cores: int
    present: EngineConfig
    present_by: str
    """The file that has them."""
    tried: list[Tried]
    chosen: EngineConfig
    comparison: Comparison | None
    """None: the present settings are the best of the search."""
    why: str
    """Reason of the choice."""
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
    rounds: int = ROUNDS,
    report_line: Callable[[str], None],
) -> Tune:
    """Find the best settings for a bundle with the frames of a line, and write them beside the line's file.

    Args:
        precisions: to choose among; none: all of the bundle. A precision that the line's file sets is used in any case.
        frame_hw, rate_fps: of all cameras, instead of those of the line's file; None: those of the file.
        seconds: length of a candidate's run in the first round.
        rounds: rounds of present and chosen settings at the end.
    Raises:
        BundleError, ConfigError, CameraError, EngineError: the line could not be run with this bundle.
        BenchError: a size or rate is unknown, or the file cannot be written.
    """
    from heatline.edge.inference.devices import devices

    bundle = open_bundle(bundle_path)
    config = _with_bundle(load_config(line), bundle_path)
    in_force = config.engine_for(bundle.digest)
    present = spelled_out(in_force.settings, cores())
    if in_force.not_tuned is not None:
        report_line(in_force.not_tuned)
    own = engine_keys_set(line)
    if precisions and "precision" in own and set(precisions) != {present.precision}:
        raise BenchError(
            f"{line} sets engine.precision = {present.precision!r}, which bench tune does not change; remove it "
            "to have the precision chosen, or leave --precision out"
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
            f"{bundle.path} has no graph to choose in {' or '.join(precisions)}: {left_out[0].left_out}; name "
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
    report_line(f"{', '.join(map(str, shown))}; at most {most_tiles} tiles; {cores()} cores; now: {present}")
    answers = Answers(bundle)
    best = search(tried, config, shown, answers, seconds=seconds, report_line=report_line)
    assert best is not None, "the present settings can be used"
    comparison = None
    chosen, why = present, "the present settings are the best of the search"
    if best.engine != present:
        report_line(f"comparing the present settings with {best.engine} in the service")
        comparison = compare(
            present,
            best.engine,
            config,
            bundle,
            shown,
            answers,
            seconds=ROUND_SECONDS * seconds,
            rounds=rounds,
            report_line=report_line,
        )
        better, why = is_better(comparison)
        if better:
            chosen = best.engine
    written = None
    # A file of another machine or version is replaced, even by the present settings.
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
    rounds: int,
    report_line: Callable[[str], None],
) -> Comparison:
    """Run both in interleaved rounds, each time in a new service.

    Raises:
        BenchError: their answers differ, or the service failed.
    """
    seen: dict[EngineConfig, list[OnTheLine]] = {present: [], chosen: []}
    for number, order in enumerate(interleaved(seen, rounds), 1):
        for engine in order:
            seen[engine].append(on_the_line(engine, config, bundle, shown, answers, seconds=seconds))
        report_line(f"  round {number} of {rounds}: " + "; ".join(_describe(each[-1]) for each in seen.values()))
    pairs = list(zip(seen[present], seen[chosen], strict=True))

    def ratio(of: Callable[[OnTheLine], float]) -> Spread:
        return Spread.of([of(after) / of(before) for before, after in pairs])

    return Comparison(
        present=_side(present, seen[present]),
        chosen=_side(chosen, seen[chosen]),
        latency_p50=ratio(_p50_ms),
        latency_p90=ratio(_p90_ms),
        inspected_fps=ratio(lambda one: one.inspected_fps),
        turns=rounds,
        earlier_in=sum(_p90_ms(after) < _p90_ms(before) for before, after in pairs),
        more_in=sum(after.inspected_fps > before.inspected_fps for before, after in pairs),
    )


def is_better(comparison: Comparison) -> tuple[bool, str]:
    """Return whether the chosen settings are better by more than chance, and the reason."""
    present, chosen, rounds = comparison.present, comparison.chosen, comparison.turns
    if chosen.sustains and not present.sustains:
        return True, "they keep up with the rate, and the present ones do not"
    if present.sustains and not chosen.sustains:
        return False, "they do not keep up with the rate, and the present ones do"
    if chosen.sustains:
        count, gain = comparison.earlier_in, 1 - comparison.latency_p90.median
        of, by = "p90 of the latency was lower", "lower" if gain >= 0 else "higher"
    else:
        count, gain = comparison.more_in, comparison.inspected_fps.median - 1
        of, by = "more frames were inspected", "more" if gain >= 0 else "fewer"
    better = count == rounds and gain >= LEAST_GAIN
    than_chance = "" if better else f"; it takes all {rounds} and {100 * LEAST_GAIN:.0f} % to be more than chance"
    return better, f"{of} in {count} of {rounds} rounds, at the median {100 * abs(gain):.0f} % {by}{than_chance}"


def _with_bundle(config: LineConfig, path: Path) -> LineConfig:
    """Return the configuration of the product that has the bundle; else the line's, with that bundle."""
    names: list[str | None] = [product.name for product in config.products]
    for name in names or [None]:
        of_product = config.of_product(name)
        if of_product.bundle.resolve() == path.resolve():
            return of_product
    # The line's thresholds are logits of another bundle.
    return replace(config.of_product(config.product), bundle=path.absolute(), thresholds=ThresholdsConfig())


def _passed(bundle: Bundle, precisions: Sequence[Precision]) -> tuple[list[Precision], list[Tried]]:
    """Return the precisions that passed the bundle's gate; and the others, each with the reason."""
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
            f"{tuned_file(line)} cannot be written ({error.strerror}); run it as another user, or with --dry-run"
        ) from error
    now = load_config(line).engine_for(bundle.digest)
    if now.settings != chosen:
        raise BenchError(f"{written} is written, but the line would use {now.settings}: {now.not_tuned}")
    return written


def to_facts(found: Tune) -> dict[str, object]:
    """Describe the results for people, by name and value."""
    facts: dict[str, object] = {
        "frames": f"{'; '.join(found.frames)}; by {found.model} ({found.bundle}), {found.cores} cores",
        **{str(one.engine): one.describe() for one in sorted(found.tried, key=_place)},
        "present": f"{found.present}, as {found.present_by} says",
        "chosen": f"{found.chosen}: {found.why}",
    }
    if (both := found.comparison) is not None:
        before, after = both.present, both.chosen
        facts["compared in the service"] = (
            f"median (lowest to highest) of {both.turns} rounds; {after.engine} over present"
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
            facts[f"not sustained by {side.engine}"] = f"{side.lost} frames were lost at the rate"
    facts["written to"] = found.written_to or "nothing"
    if found.written_to is not None:
        facts["applied"] = "after a reload or a restart of the line"
    return facts


def _place(one: Tried) -> tuple[bool, float, float]:
    """Sort the candidates that got farthest first."""
    return one.left_out is not None, -len(one.latencies_ms), one.latency_ms()


def _side(engine: EngineConfig, rounds: Sequence[OnTheLine]) -> Side:
    return Side(
        engine=engine,
        latency_p50_ms=Spread.of([_p50_ms(one) for one in rounds]),
        latency_p90_ms=Spread.of([_p90_ms(one) for one in rounds]),
        inspected_fps=Spread.of([one.inspected_fps for one in rounds]),
        lost=sum(one.lost for one in rounds),
        sustains=sum(one.lost > 0 for one in rounds) <= MAY_LOSE_IN,
    )


def _p50_ms(one: OnTheLine) -> float:
    return float(np.percentile(one.latencies_ms, 50))


def _p90_ms(one: OnTheLine) -> float:
    """A round has few frames: a higher percentile would be that of the slowest frame."""
    return float(np.percentile(one.latencies_ms, RANKED_AT))


def _describe(one: OnTheLine) -> str:
    lost = f", {one.lost} frames lost" if one.lost else ""
    return f"p50 {_p50_ms(one):.1f} ms, p90 {_p90_ms(one):.1f} ms{lost}"
