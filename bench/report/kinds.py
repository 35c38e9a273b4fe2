"""Sections of the report: an entry per kind of result file. Tables are made of any content, plots by functions."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from heatline.bench.recipes.rows import FIGURES
from heatline.bench.report import plots
from heatline.bench.report.tables import Record, shown


@dataclass(frozen=True)
class Kind:
    """A kind of result files, by their "bench". Each function gets the content of one file."""

    name: str
    title: str
    description: str = ""
    heading: str = "{model} in {precision}"
    """Format string with keys of the content."""
    headlines: Callable[[Record], Iterable[str]] = lambda _: ()
    """The main figures, each in a few words, for the head of the report."""
    notes: Callable[[Record], Iterable[str]] = lambda _: ()
    plots: Callable[[Record], Iterable[Markup]] = lambda _: ()
    leave_out: tuple[str, ...] = ()
    """Keys that tables leave out."""
    view: Callable[[Record], Record] = lambda one: one
    """Makes the records that tables show."""
    is_joined: bool = False
    """Whether files with one heading and machine become rows of one table."""


def _end_to_end_headlines(one: Record) -> Iterator[str]:
    if one.get("ended", "whole") != "whole":
        return
    if saturated := one["saturated"]:
        yield (
            f"{shown(saturated['service_frames_per_s']['median'])} frames/s at most, "
            f"{shown(saturated['service_over_engine'])} of what the engine does alone"
        )
    for service in (one.get("beside") or {"services": ()})["services"]:
        if ratio := service["over_plain"]:
            yield f"{shown(ratio['median'])} of the plain service's rate with {service['name']}"
    if highest := one.get("highest"):
        yield f"no frame lost at {shown(highest['rate_fps'])} frames/s"
    if window := one.get("window"):
        dropped = sum(window["dropped"].values()) + sum(window["failed"].values())
        yield (
            f"{shown(window['latency']['p50'])} ms from capture to event (median; 99 %: "
            f"{shown(window['latency']['p99'])} ms) at {shown(window['rate_fps'])} frames/s, {dropped:,} of "
            f"{window['frames']:,} frames dropped or failed"
        )


def _end_to_end_notes(one: Record) -> Iterator[str]:
    if (ended := one.get("ended", "whole")) != "whole":
        yield f"This run did not reach its end, so none of its figures is valid: {ended}."


def _end_to_end_plots(one: Record) -> Iterator[Markup]:
    if processor := one["saturated"] and one["saturated"].get("processor"):
        time_ms = {"inference": processor["inference_ms"], **processor["rest_ms"]}
        yield plots.stacks({"service": time_ms}, "Processor time of a frame", "ms of processor time", "inference")


def _stages_headlines(one: Record) -> Iterator[str]:
    for row in one.get("whole", ()):
        if row["variant"] == "defects":
            yield f"{row['size']}, {row['tiles']} tiles: {shown(row['ms']['median'])} ms for a frame with defects"


def _stages_plots(one: Record) -> Iterator[Markup]:
    frames: dict[str, dict[str, float]] = {}
    for row in one["rows"]:
        if row["stacked"]:
            frames.setdefault(f"{row['size']}, {row['tiles']} tiles", {})[row["stage"]] = row["ms"]["median"]
    if frames:
        yield plots.stacks(frames, "Time per stage of a frame with defects", "ms per frame", "infer")


def _stages_view(one: Record) -> Record:
    """Put the columns that identify a row first."""
    first = ("size", "tiles", "stage", "variant")
    return {
        key: [{**{name: row[name] for name in first if name in row}, **row} for row in value]
        if key in ("rows", "whole")
        else value
        for key, value in one.items()
    }


def _startup_headlines(one: Record) -> Iterator[str]:
    for condition, of in one["conditions"].items():
        yield f"{condition}: READY after {shown(of['ready_s']['median'])} s"


def _startup_plots(one: Record) -> Iterator[Markup]:
    starts = {
        condition: {phase: taken["median"] for phase, taken in of["phases_s"].items()}
        for condition, of in one["conditions"].items()
    }
    if starts:
        yield plots.stacks(starts, "Phases of a start", "s until the first verdict")


def _tune_headlines(one: Record) -> Iterator[str]:
    if comparison := one.get("comparison"):
        yield f"{shown(comparison['latency_p50']['median'])} of the median latency before, with the settings chosen"


def _peers_headlines(one: Record) -> Iterator[str]:
    for row in one["systems"]:
        if row["name"] != "engine alone":
            yield f"{row['name']}: {shown(row['to_engine'])} of the frames/s of the engine alone"


def _peers_plots(one: Record) -> Iterator[Markup]:
    shares = {row["name"]: (row["to_engine"], row["to_engine_spread"]) for row in one["systems"]}
    unit = "frames per second, of the engine alone"
    yield plots.bars(shares, f"Share of the engine: {one['model']}", unit, (1.0, "engine alone"))


def _map_cost_headlines(one: Record) -> Iterator[str]:
    """Yield the ratios by family of methods, for OpenVINO."""
    ratios: dict[str, list[float]] = {}
    for row in one["rows"]:
        if row["cost"] and row["engine"] == "openvino":
            family = row["method"].partition("-")[0]
            ratios.setdefault(f"{family} in {row['precision']}", []).append(row["cost"]["ratio"])
    for name, each in sorted(ratios.items()):
        ends = " to ".join(dict.fromkeys(shown(end) for end in (min(each), max(each))))
        yield f"{name}: {ends} times the time of the classifier alone"


def _map_cost_plots(one: Record) -> Iterator[Markup]:
    """Draw a plot for each engine and precision."""
    ratios: dict[str, dict[str, tuple[float, Record]]] = {}
    for row in sorted(one["rows"], key=lambda row: (row["model"], row["method"], row["batch"])):
        if row["cost"]:
            batch = f" by {row['batch']}" if row["batch"] > 1 else ""
            name = f"{row['model']} {row['method']}{batch}"
            of_engine = ratios.setdefault(f"{row['engine']}, {row['precision']}", {})
            of_engine[name] = (row["cost"]["ratio"], row["cost"]["ratio_spread"])
    for engine, each in ratios.items():
        title = f"Map cost: {engine}"
        yield plots.bars(each, title, "time with the map, of that without", (1.0, "classifier alone"))


def _recipe_view(one: Record) -> Record:
    row: dict[str, object] = {
        "recipe": " ".join([one["recipe"], *one["overrides"]]),
        "folds": len(one["folds"]),
        "seeds": len({fold["seed"] for fold in one["folds"]}),
    }
    for figure, heading in FIGURES.items():
        values = [fold[figure] for fold in one["folds"] if fold[figure] is not None]
        row[heading] = f"{statistics.fmean(values):.3f} ± {statistics.pstdev(values):.2f}" if values else None
    return {"": [row] if one["folds"] else []}


def _recipe_headlines(one: Record) -> Iterator[str]:
    """Yield the figure of the default recipe without overrides."""
    hits = [fold["hit"] for fold in one["folds"] if fold["hit"] is not None]
    if one["recipe"] == "heatline" and not one["overrides"] and hits:
        yield f"recipe heatline: {shown(statistics.fmean(hits))} of the defects hit"


def _recipe_notes(one: Record) -> Iterator[str]:
    yield from _machines_note(
        f"{' '.join([one['recipe'], *one['overrides']])}: ",
        {
            f"seed {each['seed']}" + ("" if each["fold"] is None else f", fold {each['fold']}"): each.get("machine")
            for each in one["trainings"]
        },
    )


def _machines_note(before: str, machines: Record) -> Iterator[str]:
    """Yield the origin of each part of a file whose parts come from several machines or commits."""
    origins = {
        part: f"{machine.get('processor')}, commit {machine.get('commit')}"
        for part, machine in machines.items()
        if machine
    }
    if len(set(origins.values())) > 1:
        yield f"{before}measured on: " + "; ".join(f"{part}: {origin}" for part, origin in origins.items()) + "."


def _evaluation_view(one: Record) -> Record:
    subject = one["subject"]
    kept = ", all" if one["schema"] < 4 else ""  # ambiguous tiles counted as good
    return {
        "": [
            {
                "model": subject["model"],
                "map": subject["method"],
                "groups": subject["groups"],
                "by": truth["truth"],
                f"tile AP{kept}": truth["figures"]["tile"]["average_precision"],
                f"tile AUROC{kept}": truth["figures"]["tile"]["auroc"],
            }
            for truth in one["truths"]
            if truth["figures"]["tile"] is not None
        ]
    }


KINDS = (
    Kind(
        name="end-to-end",
        title="From capture to event",
        description="The real service, from cameras to a subscriber in another process, compared with the bare engine.",
        notes=_end_to_end_notes,
        plots=_end_to_end_plots,
        headlines=_end_to_end_headlines,
    ),
    Kind(
        name="stages",
        title="Time per stage",
        description="Each stage per frame. Stages overlap: the sum is not a latency. Medians (lowest to highest).",
        plots=_stages_plots,
        leave_out=("stacked", "allocated_bytes", "peak_bytes"),
        view=_stages_view,
        headlines=_stages_headlines,
    ),
    Kind(
        name="startup",
        title="Start",
        description="From the start of the process to READY and to the first verdict. Medians (lowest to highest).",
        plots=_startup_plots,
        headlines=_startup_headlines,
    ),
    Kind(
        name="tune",
        title="Settings for this machine",
        description="Settings that heatline bench tune tried and chose, and the gain in interleaved rounds.",
        heading="{model}, {line}",
        headlines=_tune_headlines,
    ),
    Kind(
        name="peers",
        title="Compared with others",
        description="The same frames, network, precision and machine, in interleaved rounds, by the engine alone.",
        plots=_peers_plots,
        leave_out=("libraries",),
        headlines=_peers_headlines,
    ),
    Kind(
        name="map-cost",
        title="What a map costs",
        description="Time of classifier and map over that of the same classifier alone, in interleaved rounds.",
        heading="Classifier and map",
        plots=_map_cost_plots,
        leave_out=("fusion", "discard_ratio", "tile_px", "threads", "rounds", "tiles", "at_utc", "load"),
        headlines=_map_cost_headlines,
    ),
    Kind(
        name="flops",
        title="Parameters and multiply-adds",
        heading="One tile of {tile_px} px",
        notes=lambda one: [one["units"], one["study"]],
    ),
    Kind(
        name="recipes",
        title="Recipes",
        description="Recipes on real data sets, by grouped cross-validation; mean ± deviation over folds and seeds; "
        "docs/recipes.md defines the figures.",
        heading="{set}, by {truth}",
        notes=_recipe_notes,
        view=_recipe_view,
        is_joined=True,
        headlines=_recipe_headlines,
    ),
    Kind(
        name="evaluation",
        title="Evaluations",
        description="How well trained models separate good and defective tiles, by heatline evaluate.",
        heading="{subject[data]}",
        view=_evaluation_view,
        is_joined=True,
    ),
)
