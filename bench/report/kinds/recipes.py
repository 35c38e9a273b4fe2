"""How well a recipe finds the defects of a data set."""

from bench.recipes.rows import FIGURES, RecipeResult
from bench.report.content import Block, table
from bench.report.files import Result


def blocks(result: Result) -> list[Block]:
    """One for a recipe on a data set; none before its first fold."""
    return [_block(one) for one in result.decoded(RecipeResult) if one.folds]


def _block(found: RecipeResult) -> Block:
    seeds = len({fold.seed for fold in found.folds})
    said = f"By {found.truth}; mean ± deviation over {len(found.folds)} folds, {seeds} seed{'s' * (seeds != 1)}."
    columns = ["recipe", *FIGURES.values()]
    rows = [[found.name, *(found.cell(figure) for figure in FIGURES)]]
    return Block(f"{found.set}: {found.name}", (said,), tables=(table(columns, rows),))
