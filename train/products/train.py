"""Trains many products: one Ray task each, on this machine or on a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heatline.edge import __version__
from heatline.edge.cluster import interruptible, open_cluster
from heatline.edge.errors import ConfigError, HeatlineError, Interrupted, TrainingError, last_line
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count
from heatline.train.config import TrainConfig
from heatline.train.evaluation.result import is_complete
from heatline.train.products.page import ProductResult, ProductsReport, read_result, worst_first, write_page
from heatline.train.products.plan import Plan, Product
from heatline.train.products.task import train_product

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
                _Trainings(waiting, processors, report_line, errors).run()
    except KeyboardInterrupt as error:
        done = sum(is_complete(product.run) for product in plan.products)
        raise Interrupted(
            f"stopped with {done} of {format_count(len(plan.products), 'product')} trained; continue with the same "
            "command"
        ) from error
    results = worst_first([_result(product, errors) for product in plan.products])
    page = write_page(results, plan.out, f"{folder.resolve().name}: products")
    return ProductsReport(out=str(plan.out), page=str(page), products=results), errors


class _Trainings:
    """The trainings of products as tasks of the open cluster.

    Args:
        configs: of each product, by its name.
        processors: per product.
        errors: gets those of the products that fail, by their names.
    """

    def __init__(
        self,
        configs: dict[str, TrainConfig],
        processors: int,
        report_line: ReportLine,
        errors: dict[str, HeatlineError],
    ) -> None:
        self._configs, self._processors, self._report_line, self._errors = configs, processors, report_line, errors

    def run(self) -> None:
        """Run all tasks to their end, in any order."""
        import ray

        # A process per task: a second training in it would have the threads and processors of the first.
        remote = ray.remote(num_cpus=self._processors, max_retries=RETRIES, max_calls=1)(train_product)
        tasks = {
            remote.options(name=f"train {name}").remote(config, __version__, self._processors): name
            for name, config in self._configs.items()
        }
        of = len(tasks)
        while tasks:
            (task, *_), _ = ray.wait([*tasks], num_returns=1)
            name = tasks.pop(task)
            error = self._outcome(task)
            if error is not None:
                self._errors[name] = error
            outcome = "is trained" if error is None else f"failed: {error}"
            self._report_line(f"{name} {outcome} ({of - len(tasks)} of {of})")

    def _outcome(self, task: Any) -> HeatlineError | None:
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
            self._report_line(str(bug))
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
