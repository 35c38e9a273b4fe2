"""What a bundle's precisions are worth: their speed on this machine, in turns, beside what the gate said of them."""

import statistics
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.spread import Spread
from bench.turns import Run, in_turns
from edge.bundle import Bundle
from edge.bundle.manifest import MapGate
from edge.bundle.proven_engine import open_proven_engine
from edge.errors import BenchError
from edge.inference import Engine, Precision, infer
from edge.inference.engine import weights_of


class PrecisionSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """One precision at one batch size."""

    precision: Precision
    batch: int
    tiles_per_round: int
    """Whole batches of what was asked for, at least one."""
    tiles_per_s: Spread
    to_f32: float
    """Its median tiles/s over that of f32."""
    to_f32_spread: Spread
    """Of the same ratio round by round."""


class PrecisionsBench(msgspec.Struct, frozen=True, kw_only=True):
    """All precisions of a bundle."""

    bundle: str
    model: str
    method: str
    rounds: int
    speeds: list[PrecisionSpeed]
    bytes_of_graph: dict[Precision, int]
    """What each precision's IR takes, both files."""
    bytes_in_all: int
    """Of the bundle."""
    map_gate: MapGate | None
    """As the manifest has it."""


def measure_precisions(
    bundle: Bundle, *, batches: tuple[int, ...], rounds: int, tiles_per_round: int, say: Callable[[str], None]
) -> PrecisionsBench:
    """Time the golden tiles, over and over, through each precision on all cores.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor can one of its precisions.
    """
    manifest, golden = bundle.manifest, bundle.golden()
    speeds: list[PrecisionSpeed] = []
    for batch in dict.fromkeys(batches):
        count = max(1, tiles_per_round // batch)
        tiles = np.resize(golden.tiles, (count * batch, *golden.tiles.shape[1:]))
        runs = {precision: _run(_engine(bundle, precision, batch), tiles) for precision in manifest.precisions}
        say(f"timing {', '.join(runs)} in batches of {batch}, {rounds} rounds")
        seconds = in_turns(runs, rounds, count)
        for precision in manifest.precisions:
            pairs = zip(seconds["f32"], seconds[precision], strict=True)
            speeds.append(
                PrecisionSpeed(
                    precision=precision,
                    batch=batch,
                    tiles_per_round=len(tiles),
                    tiles_per_s=Spread.of([len(tiles) / one for one in seconds[precision]]),
                    to_f32=statistics.median(seconds["f32"]) / statistics.median(seconds[precision]),
                    to_f32_spread=Spread.of([f32 / other for f32, other in pairs]),
                )
            )
    sizes = {file.name: file.stat().st_size for file in bundle.path.iterdir()}
    graphs = {precision: manifest.graph_for(precision) or "" for precision in manifest.precisions}
    return PrecisionsBench(
        bundle=bundle.path.name,
        model=manifest.model.name,
        method=manifest.map.method,
        rounds=rounds,
        speeds=speeds,
        bytes_of_graph={precision: sizes[graph] + sizes[weights_of(graph)] for precision, graph in graphs.items()},
        bytes_in_all=sum(sizes.values()),
        map_gate=manifest.map_gate,
    )


def to_facts(found: PrecisionsBench) -> dict[str, object]:
    """The same for people."""
    tiles = " or ".join(dict.fromkeys(str(speed.tiles_per_round) for speed in found.speeds))
    return {
        "figures": f"median (lowest to highest) of {found.rounds} rounds of {tiles} tiles",
        **{
            f"{one.precision}, batches of {one.batch}": f"{one.tiles_per_s:.0f} tiles/s, {one.to_f32:.2f} of f32; its "
            f"graph {found.bytes_of_graph[one.precision] / 1e6:.1f} MB"
            for one in found.speeds
        },
    }


def _engine(bundle: Bundle, precision: Precision, batch: int) -> Engine:
    proven = open_proven_engine(bundle, "openvino", precision, batch=batch)
    if proven.fell_back is not None:
        raise BenchError(f"{precision} cannot be timed on this machine: {proven.fell_back}")
    return proven.engine


def _run(engine: Engine, tiles: NDArray[np.uint8]) -> Run:
    def run(batches: int) -> None:
        infer(engine, tiles[: batches * engine.batch])

    return run
