"""The table of many products: on the terminal, and as a page beside their runs."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from heatline.edge.errors import TrainingError
from heatline.edge.util.page import page_templates
from heatline.edge.util.text import format_count, utf8_safe
from heatline.train.files import write_atomically
from heatline.train.products.result import ProductResult
from heatline.train.run import RunFolder

PAGE = "products.html"
COLUMNS = "product", "tile AP", "picture AUROC", "missed", "rejected", "time", "warnings", "run"
TEXTS = 0, 7
"""Columns that hold text; the others hold figures."""
NOTES = (
    "The worst product is first: products that failed, then by the average precision of their tiles, then those "
    "without one. Each product's name leads to its report.",
    "All figures are cross-validated: a model that was not trained on a picture's fold answers it.",
    "Missed: defective pictures below the score threshold. Rejected: good pictures that reach it. The other folds set "
    "the threshold.",
    "A dash: the figure is not known, as all pictures are good, or the training had no cross-validation.",
)


def cells_of(result: ProductResult) -> list[str]:
    """Return the cells of a product's row, in the order of `COLUMNS`; the last says why a product failed."""
    of = result.verdicts
    return [
        result.product,
        _figure(result.tile_ap),
        _figure(result.auroc),
        f"{of.missed} of {of.defective}" if of and of.defective else "-",
        f"{of.rejected} of {of.good}" if of and of.good else "-",
        "-" if result.seconds is None else f"{result.seconds:.0f} s",
        "-" if result.failed else str(len(result.warnings)),
        f"failed: {result.failed}" if result.failed else result.run,
    ]


def write_page(results: Sequence[ProductResult], out: Path, title: str) -> Path:
    """Write the results as a page to the folder of the runs; return its path.

    Raises:
        TrainingError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out} cannot be made ({error.strerror}); choose another place with out=") from error
    failed = sum(result.failed is not None for result in results)
    rows = [
        {
            "cells": [utf8_safe(cell) for cell in cells_of(result)],
            "failed": result.failed is not None,
            "link": _link(result, out),
            "warnings": result.warnings,
        }
        for result in results
    ]
    html = (
        page_templates("heatline.train.evaluation")
        .get_template("products.html.jinja")
        .render(
            title=utf8_safe(title),
            intro=f"{format_count(len(results), 'product')}, {failed} failed",
            columns=COLUMNS,
            texts=TEXTS,
            rows=rows,
            notes=NOTES,
        )
    )
    write_atomically(out / PAGE, lambda place: place.write_text(html, encoding="utf-8", errors="replace"))
    return out / PAGE


def _link(result: ProductResult, out: Path) -> str | None:
    """Return the address of a product's report from the page's folder; None if it has none."""
    page = RunFolder(Path(result.run)).page
    return quote(str(page.relative_to(out)).encode(errors="surrogateescape")) if page.exists() else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
