"""Parameters and multiply-adds, beside the study's Table 1.1."""

from bench.flops_rows import FlopsBench
from bench.report.content import Block, Column, shown, table
from bench.report.files import Result


def blocks(result: Result) -> list[Block]:
    """One for all systems of a measurement."""
    return [_block(one) for one in result.decoded(FlopsBench)]


def _block(found: FlopsBench) -> Block:
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
    return Block(
        f"One tile of {found.tile_px} px",
        (found.units, found.study),
        tables=(table(columns, rows), table(adds_columns, adds_rows, "What a map adds to the classifier")),
    )
