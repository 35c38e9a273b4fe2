"""What `heatline cameras grab` tells of one camera, for people."""

from pathlib import Path

from edge.geometry import TileGrid
from edge.grab.report import Grabbed, Loss
from edge.util.text import format_count, is_are

ALWAYS_TOLD = "lost_by_camera", "incomplete"


def grab_facts(grabbed: Grabbed, out: Path) -> dict[str, object]:
    """One fact on each thing that is known of it.

    Args:
        out: the folder of its pictures.
    """
    facts: dict[str, object] = {}
    if grabbed.problem is not None:
        facts["problem"] = grabbed.problem
    if grabbed.found is None:
        return facts
    facts["found"] = grabbed.found
    facts["frames"] = (
        ", ".join(f"{one.frames} of {one.width}x{one.height} px {one.pixel_format}" for one in grabbed.formats)
        or "none"
    )
    facts["rate"] = _rate_in_words(grabbed)
    if grabbed.jitter_ms is not None:
        facts["jitter"] = (
            f"{grabbed.jitter_ms:.3f} ms standard deviation, {grabbed.worst_jitter_ms:.3f} ms at worst, by arrival here"
        )
    facts["losses"] = _losses_in_words(grabbed)
    facts["identical"] = f"{grabbed.identical} the same as the one before to the last bit"
    if grabbed.died:
        facts["died"] = "; ".join(grabbed.died)
    if grabbed.counters:
        facts["counters"] = ", ".join(f"{name} {count}" for name, count in grabbed.counters.items())
    if grabbed.clock is not None:
        facts["its clock"] = f"counted {grabbed.clock.camera_ms:.3f} ms, {grabbed.clock.host_ms:.3f} ms passed here"
    facts["saved"] = _saved_in_words(grabbed, out)
    if grabbed.area is not None:
        facts["area"] = (
            f"{out / grabbed.area.file}: {grabbed.area.tiles_looked_at} of {format_count(grabbed.area.tiles, 'tile')} "
            f"{is_are(grabbed.area.tiles_looked_at)} inspected, "
            f"if the bundle's have the usual {TileGrid.tile_px} px"
        )
    return facts


def _rate_in_words(grabbed: Grabbed) -> str:
    rate = "unknown" if grabbed.rate_fps is None else f"{grabbed.rate_fps:.4g} frames/s"
    if grabbed.trigger != "free":
        return f"{rate}, by {grabbed.trigger} trigger"
    return f"{rate}, set to {'no rate' if grabbed.rate_set_fps is None else f'{grabbed.rate_set_fps:.4g}'}"


def _losses_in_words(grabbed: Grabbed) -> str:
    none = {reason: Loss(0, "") for reason in ALWAYS_TOLD if grabbed.ids_show_gaps}
    words = [
        f"{reason} {one.frames}" + f": {one.detail}" * bool(one.frames)
        for reason, one in (none | grabbed.losses).items()
    ]
    if not grabbed.ids_show_gaps:
        words.append("its frame ids show no gaps, so what the camera itself loses is not seen")
    return "; ".join(words)


def _saved_in_words(grabbed: Grabbed, out: Path) -> str:
    if not grabbed.saved:
        return "none"
    first, last = grabbed.saved[0], grabbed.saved[-1]
    return f"{len(grabbed.saved)}: {out / first}" + (f" to {last}" if last != first else "")
