"""Ours beside what others would use, each as a share of the engine alone."""

from bench.peers.peers import PeersBench
from bench.peers.systems import ENGINE, OURS
from bench.peers.worker import in_words
from bench.report.content import Block, Column, Plot, shown, spread, table
from bench.report.files import Result
from bench.report.plots import Bar, bars


def blocks(result: Result) -> list[Block]:
    """One for each measurement."""
    return [_block(one) for one in result.decoded(PeersBench)]


def _block(found: PeersBench) -> Block:
    height, width = found.frame_hw
    told = (
        f"Frames of {width}x{height} px, {found.tiles_per_frame} tiles; median (lowest to highest) of {found.rounds} "
        f"rounds of {found.frames} frames, on {found.threads} threads. What had no turn took "
        f"{shown(found.others_cpu)} of a core at most.",
    )
    drawn = [
        Bar(one.name, one.to_engine, one.to_engine_spread.lowest, one.to_engine_spread.highest, one.name == OURS)
        for one in found.systems
        if one.name != ENGINE
    ]
    columns = (
        *(Column("system", True), Column("is", True)),
        *("frames/s", "tiles/s", "of the engine", "by rounds", "ours to it", "by rounds", "logits off, %"),
        *(Column("heatmap", True), Column("settings", True), Column("parts, ms a frame", True)),
    )
    rows = [
        (
            *(one.name, one.what, spread(one.frames_per_s), spread(one.tiles_per_s)),
            *(shown(one.to_engine), spread(one.to_engine_spread)),
            *(shown(one.ours_to_it), spread(one.ours_to_it_spread), shown(100 * one.logits_off)),
            "none" if one.heatmap_hw is None else f"{one.heatmap_hw[1]}x{one.heatmap_hw[0]}",
            in_words(one.settings),
            ", ".join(f"{part} {shown(ms)}" for part, ms in one.ms_per_frame.items()),
        )
        for one in found.systems
    ]
    cannot = [(one.name, one.version, one.reason) for one in found.cannot]
    left_out = table([Column(name, True) for name in ("not timed", "version", "why")], cannot)
    title = "frames per second, of the engine alone"
    plots = (Plot(bars(drawn, f"Share of the engine: {found.model}", title, (1.0, "engine alone"))),) if drawn else ()
    return Block(
        f"{found.model} in {found.precision}", told, plots, (table(columns, rows), *([left_out] if cannot else []))
    )
