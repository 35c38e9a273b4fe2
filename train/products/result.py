"""The results of many products' trainings, from their run folders."""

from pathlib import Path

import msgspec

from heatline.train.evaluation.result import Verdicts, count_verdicts, read_evaluation
from heatline.train.products.plan import Product
from heatline.train.products.task import LOG

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
