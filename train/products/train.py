"""Trains many products: one Ray task each, on this machine or on a cluster, and a table of their results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from heatline.edge import __version__
from heatline.edge.cluster import interruptible, open_cluster
from heatline.edge.errors import ConfigError, HeatlineError, Interrupted, TrainingError, last_line
from heatline.edge.util.page import page_templates
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count, utf8_safe
from heatline.train.config import TrainConfig
from heatline.train.evaluation.result import Verdicts, count_verdicts, is_complete, read_evaluation
from heatline.train.files import write_atomically
from heatline.train.products.plan import LOG, Plan, Product, train_product
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


RETRIES = 3
"""A training is started so many times more if its process or its node dies."""

ReportLine = Callable[[str], None]


@interruptible()
def train_products(
    folder: Path,
    overrides: Sequence[str],
    report_line: ReportLine,
    address: str | None = None,
    processors: int | None = None,
) -> tuple[ProductsReport, dict[str, HeatlineError]]:
    """Train each product of a folder that is not trained yet.

    Args:
        folder: has one folder per product; it and the folder of the runs have the same path on all nodes.
        overrides: `key=value` for all products, see `Plan`.
        report_line: gets lines for people.
        address: of a Ray cluster; None: this machine.
        processors: number of processors per product; default: 2, or the only one of this machine.
    Returns:
        The results, and the errors of the products that failed.
    Raises:
        InputError, ConfigError: as `Plan`; a product's run was started with other values; this machine has fewer
            processors.
        DeliveryError: Ray does not start, or cannot be joined.
        TrainingError: the folder of the runs cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    here = cores()
    processors = processors or (min(2, here) if address is None else 2)
    if address is None and processors > here:
        raise ConfigError(
            f"--processors {processors} came, and this machine has {here}; use at most these, or join a cluster with "
            "--address"
        )
    plan = Plan(folder, overrides)
    configs = {product.name: plan.configure(product) for product in plan.products}  # refused before any is trained
    waiting = {each.name: configs[each.name] for each in plan.products if not is_complete(each.run)}
    errors = dict[str, HeatlineError]()
    done = len(configs) - len(waiting)
    report_line(
        f"{format_count(len(configs), 'product')}: {done} already trained, {len(waiting)} to train, with "
        f"{format_count(processors, 'processor')} each; runs in {plan.out}"
    )
    try:
        if waiting:
            with open_cluster(address):
                _train_all(waiting, processors, report_line, errors)
    except KeyboardInterrupt as error:
        done = sum(is_complete(product.run) for product in plan.products)
        raise Interrupted(
            f"stopped with {done} of {format_count(len(plan.products), 'product')} trained; continue with the same "
            "command"
        ) from error
    results = worst_first([_result(product, errors) for product in plan.products])
    page = write_page(results, plan.out, f"{folder.resolve().name}: products")
    return ProductsReport(out=str(plan.out), page=str(page), products=results), errors


def _train_all(
    configs: dict[str, TrainConfig], processors: int, report_line: ReportLine, errors: dict[str, HeatlineError]
) -> None:
    """Run the training of each product as a task of the open cluster, in any order.

    Args:
        configs: of each product, by its name.
        processors: per product.
        errors: gets those of the products that fail, by their names.
    """
    import ray

    # A process per task: a second training in it would have the threads and processors of the first.
    remote = ray.remote(num_cpus=processors, max_retries=RETRIES, max_calls=1)(train_product)
    tasks = {
        remote.options(name=f"train {name}").remote(config, __version__, processors): name
        for name, config in configs.items()
    }
    of = len(tasks)
    while tasks:
        (task, *_), _ = ray.wait([*tasks], num_returns=1)
        name = tasks.pop(task)
        error = _outcome(task, report_line)
        if error is not None:
            errors[name] = error
        outcome = "is trained" if error is None else f"failed: {error}"
        report_line(f"{name} {outcome} ({of - len(tasks)} of {of})")


def _outcome(task: Any, report_line: ReportLine) -> HeatlineError | None:
    """Return the error of an ended task; None: its product is trained."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

    try:
        error: HeatlineError | None = ray.get(task)
    except OutOfMemoryError:
        return TrainingError(
            "its node had no memory left; let fewer products train at once, with more --processors each"
        )
    except (WorkerCrashedError, NodeDiedError):
        return TrainingError(
            f"its process died {RETRIES + 1} times; train this product with a command of its own to see why"
        )
    except RayError as bug:  # an exception that the training does not expect, or a node without heatline
        report_line(str(bug))
        return TrainingError(
            f"it ended with an unexpected error ({last_line(bug)}); check that all nodes have the same heatline, "
            "and report the error if they have"
        )
    return error


def _result(product: Product, errors: dict[str, HeatlineError]) -> ProductResult:
    if product.name not in errors:
        try:
            return read_result(product)
        except HeatlineError as error:  # the folder of the runs is not the one that the nodes see
            errors[product.name] = error
    return ProductResult(product=product.name, run=str(product.run.folder), failed=str(errors[product.name]))
