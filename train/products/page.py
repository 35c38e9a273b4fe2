"""The table of many products, from their run folders: on the terminal, and as a page beside their runs."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from heatline.edge.errors import TrainingError
from heatline.edge.util.page import page_templates
from heatline.edge.util.text import format_count, utf8_safe
from heatline.train.evaluation.result import Verdicts, count_verdicts, read_evaluation
from heatline.train.files import write_atomically
from heatline.train.products.plan import Product
from heatline.train.products.task import LOG
from heatline.train.run import RunFolder

WARNING = "warning: "


class ProductResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a product; all figures are None if it failed, or if it was not cross-validated."""

    product: str
    run: str
    """Folder of its run."""
    failed: str | None = None
    """Why it could not be trained."""
    tile_ap: float | None = None
    """Average precision of tiles that are not ambiguous, cross-validated."""
    auroc: float | None = None
    """Picture AUROC, cross-validated."""
    threshold: float | None = None
    """The report's score threshold."""
    verdicts: Verdicts | None = None
    """Pictures that it misses and rejects, cross-validated."""
    seconds: float | None = None
    """Duration of the training."""
    warnings: list[str] = []
    """Of the training and of its report."""


class ProductsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of all products."""

    out: str
    """Folder of the runs."""
    page: str
    products: list[ProductResult]
    """Worst first: those that failed, then by the average precision of tiles, then those without one."""


def read_result(product: Product) -> ProductResult:
    """Read the result of a finished run.

    Raises:
        InputError: its folder cannot be read.
    """
    run = product.run
    summary = run.read_summary()
    evaluation = read_evaluation(run.report) if run.out_of_fold.exists() else None
    return ProductResult(
        product=product.name,
        run=str(run.folder),
        tile_ap=summary.val.get("val_ap"),
        auroc=summary.val.get("val_picture_auroc"),
        threshold=None if evaluation is None else evaluation.calibration.score_threshold,
        verdicts=None if evaluation is None else count_verdicts(evaluation),
        seconds=summary.seconds,
        warnings=[*_logged_warnings(run.folder / LOG), *(() if evaluation is None else evaluation.warnings)],
    )


def worst_first(results: list[ProductResult]) -> list[ProductResult]:
    """Sort results: those that failed, then by the average precision of tiles, then those without one."""

    def rank(result: ProductResult) -> tuple[bool, bool, float, str]:
        ap = result.tile_ap
        return result.failed is None, ap is None, 0.0 if ap is None else ap, result.product

    return sorted(results, key=rank)


def _logged_warnings(log: Path) -> list[str]:
    """Return the warnings of a training, each once: a training that was started again wrote them again."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [*dict.fromkeys(line.removeprefix(WARNING) for line in lines if line.startswith(WARNING))]


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
