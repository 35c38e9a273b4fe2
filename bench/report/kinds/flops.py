"""Parameters and multiply-adds, beside the study's Table 1.1. The structs of the bench itself need torch to be read."""

import msgspec

from bench.report.content import Block, Column, shown, table
from bench.report.files import Result


class MapAdds(msgspec.Struct, frozen=True):
    """As in a file, like the next ones."""

    method: str
    macs: int
    operations: dict[str, int] | None


class System(msgspec.Struct, frozen=True):
    """One model, one tile."""

    model: str
    map_hw: tuple[int, int]
    parameters: int
    macs: int
    gflops: float
    macs_with_map: int
    gflops_with_map: float
    maps: list[MapAdds]
    study_gflops: float | None


class Flops(msgspec.Struct, frozen=True):
    """All systems, without their layers."""

    tile_px: int
    units: str
    study: str
    systems: list[System]


def blocks(result: Result) -> list[Block]:
    """Systems, and what their maps add."""
    found = msgspec.convert(result.measurements[0], Flops)
    columns: tuple[str | Column, ...] = (
        *("model", "parameters, M", "GMACs", "GMACs with map", "GFLOPs", "GFLOPs with map"),
        *(Column("map", True), "Table 1.1, GMACs"),
    )
    rows = [
        (
            one.model,
            f"{one.parameters / 1e6:.2f}",
            f"{one.macs / 1e9:.4f}",
            f"{one.macs_with_map / 1e9:.4f}",
            f"{one.gflops:.4f}",
            f"{one.gflops_with_map:.4f}",
            "x".join(map(str, one.map_hw)),
            shown(one.study_gflops),
        )
        for one in found.systems
    ]
    graphs = tuple(dict.fromkeys(name for one in found.systems for adds in one.maps for name in adds.operations or ()))
    adds_columns: tuple[str | Column, ...] = (
        *("model", Column("map", True), "MACs, M"),
        *(f"operations in {name}, M" for name in graphs),
    )
    adds_rows = [
        (
            one.model,
            adds.method,
            f"{adds.macs / 1e6:.3f}",
            *(shown(None if count is None else count / 1e6) for count in map((adds.operations or {}).get, graphs)),
        )
        for one in found.systems
        for adds in one.maps
    ]
    return [
        Block(
            f"One tile of {found.tile_px} px",
            (found.units, found.study),
            tables=(
                table(columns, rows),
                table(adds_columns, adds_rows, "What a map adds to the classifier"),
            ),
        )
    ]
