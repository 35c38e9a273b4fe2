"""Trains many products, one folder each: a Ray task per product, on this machine or on a cluster, and a table.

Importing this does not import torch, which counts the processors as it is imported.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from heatline.edge import __version__
from heatline.edge.cluster import check_same_version, interruptible, open_cluster
from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted, TrainingError, last_line
from heatline.edge.picture_folders import layout_of
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count
from heatline.train.compose import compose, with_folder
from heatline.train.config import REFERENCE_WORDS, DenseRecipeConfig, TrainConfig
from heatline.train.files import lock_file
from heatline.train.run import RunFolder

WARNING = "warning: "
RETRIES = 3
"""A training is started so many times more if its process or its node dies."""
COLUMNS = "product", "tile AP", "picture AUROC", "missed", "rejected", "time", "warnings", "run"
TEXTS = "product", "run"
"""Columns that hold text; the others hold figures."""

_ONE_EACH = {
    "data": "each folder in the folder of products is a product",
    "reviewed": "it belongs to one product; train that one without --products",
    "resume": "the same command, given again, continues",
}
"""Keys that many products cannot share, and why."""


def plan_products(folder: Path, overrides: Sequence[str]) -> dict[str, TrainConfig]:
    """Return the configuration of each product's training, by the product's name.

    Args:
        folder: has one folder per product, each as `heatline train FOLDER` takes it.
        overrides: `key=value` for all products; `out` is the folder of their runs, by default `runs/` and the name of
            `folder`.
    Raises:
        InputError: `folder` holds no folders, or is itself a product.
        ConfigError: an override is wrong, cannot be shared, or differs from that of a run that has begun.
    """
    given = dict(item.partition("=")[::2] for item in overrides)
    for key, value in given.items():
        if key in _ONE_EACH:
            raise ConfigError(f"{key}={value} cannot be given with --products: {_ONE_EACH[key]}")
        if key == "reference" and value not in REFERENCE_WORDS:
            raise ConfigError(
                f"{key}={value} cannot be given with --products: a picture shows one product; train that alone"
            )
    folder = folder.resolve()
    out = Path(given.pop("out", f"runs/{folder.name}")).resolve()
    shared = [f"{key}={value}" for key, value in given.items()]
    if out.is_relative_to(folder):
        raise ConfigError(f"out={out} lies among the products; name a folder outside {folder}")
    configs = dict[str, TrainConfig]()
    for data in _folders_in(folder):
        run = RunFolder(out / data.name)
        resume = ["resume=true"] if run.config.exists() else []
        config = compose(with_folder([*shared, f"out={run.folder}", *resume], str(data)))
        if not isinstance(config.recipe, DenseRecipeConfig):
            raise ConfigError(
                f"recipe={config.recipe.name} trains the whole network, which --products does not; leave it out, or "
                "train each product with a command of its own"
            )
        configs[data.name] = config
    return configs


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder with one folder per product")
    if (layout := layout_of(folder)) and layout.roots[0].deep:
        raise InputError(
            f"{folder} is itself a folder of pictures; train it without --products, or name the folder above it"
        )
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{folder} holds no folder; put each product's pictures into a folder of its own there")
    return folders


@contextmanager
def own_processors(count: int) -> Iterator[None]:
    """Limit this process, and so PyTorch and OpenVINO, to `count` processors that no other such training has.

    If other trainings hold too many, processors are shared.
    """
    before = os.sched_getaffinity(0)
    locks = Path(tempfile.gettempdir()) / f"heatline-processors-{os.getuid()}"
    with ExitStack() as held:
        own = list[int]()
        for number in sorted(before):
            if len(own) < count and held.enter_context(lock_file(locks / str(number))):
                own.append(number)
        own += sorted(before - {*own})[: count - len(own)]
        os.sched_setaffinity(0, own)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def log_of(run: RunFolder) -> Path:
    """Return the file beside a run's folder that holds what its training reported."""
    return run.folder.with_name(f"{run.folder.name}.log")


def train_product(config: TrainConfig, version: str, processors: int) -> HeatlineError | None:
    """Train a product, or resume its training; return the error if it cannot be trained.

    Another process that trains it into the same folder, such as one whose driver has died, is waited for.

    Args:
        version: of heatline, where the command was given.
    """
    try:
        check_same_version(version)
        run = RunFolder(Path(config.out))
        with lock_file(run.folder.parent / ".locks" / run.folder.name, wait=True), own_processors(processors):
            from heatline.train.fit import fit  # PyTorch counts the processors as it is imported

            with log_of(run).open("a", encoding="utf-8", errors="replace") as log:
                report_line = partial(print, file=log, flush=True)
                report_line(f"on {os.uname().nodename}, with {format_count(processors, 'processor')}")
                fit(msgspec.structs.replace(config, resume=run.config.exists()), report_line)
    except HeatlineError as error:
        return error
    return None


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
    figures: dict[str, int | float | None] = {}
    """Of the report, cross-validated, by dotted name."""
    seconds: float | None = None
    """Duration of the training."""
    warnings: list[str] = []
    """Of the training and of its report."""


def read_result(product: str, run: RunFolder) -> ProductResult:
    """Read the result of a finished run."""
    from heatline.train.evaluation.result import read_evaluation

    summary = run.read_summary()
    evaluation = read_evaluation(run.report) if run.out_of_fold.exists() else None
    log = log_of(run)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    # Each once: a training that was started again wrote them again.
    warnings = dict.fromkeys(line.removeprefix(WARNING) for line in lines if line.startswith(WARNING))
    return ProductResult(
        product=product,
        run=str(run.folder),
        tile_ap=summary.val.get("val_ap"),
        auroc=summary.val.get("val_picture_auroc"),
        threshold=None if evaluation is None else evaluation.calibration.score_threshold,
        figures={} if evaluation is None else evaluation.figures,
        seconds=summary.seconds,
        warnings=[*warnings, *(() if evaluation is None else evaluation.warnings)],
    )


def worst_first(results: list[ProductResult]) -> list[ProductResult]:
    """Sort results: those that failed, then by the average precision of tiles, then those without one."""
    return sorted(results, key=lambda each: (not each.failed, each.tile_ap is None, each.tile_ap or 0.0, each.product))


def cells_of(result: ProductResult) -> list[str]:
    """Return the cells of a product's row, in the order of `COLUMNS`; the last says why a product failed."""
    of = result.figures
    return [
        result.product,
        *("-" if figure is None else f"{figure:.3f}" for figure in (result.tile_ap, result.auroc)),
        f"{of['frame.escaped_frames']} of {of['frame.defective_frames']}" if of.get("frame.defective_frames") else "-",
        f"{of['frame.rejected_frames']} of {of['frame.good_frames']}" if of.get("frame.good_frames") else "-",
        "-" if result.seconds is None else f"{result.seconds:.0f} s",
        "-" if result.failed else str(len(result.warnings)),
        f"failed: {result.failed}" if result.failed else result.run,
    ]


@interruptible()
def train_products(
    folder: Path,
    overrides: Sequence[str],
    report_line: Callable[[str], None],
    address: str | None = None,
    processors: int | None = None,
) -> tuple[list[ProductResult], dict[str, HeatlineError]]:
    """Train each product that is not trained yet; return all results, worst first, and the errors of those that failed.

    Args:
        folder, overrides: see `plan_products`; folders have the same path on all nodes.
        report_line: gets lines for people.
        address: of a Ray cluster; None: this machine.
        processors: number of processors per product; default: 2, or the only one of this machine.
    Raises:
        DeliveryError: Ray does not start, or cannot be joined.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    from heatline.train.evaluation.result import is_complete

    here = cores()
    processors = processors or (min(2, here) if address is None else 2)
    if address is None and processors > here:
        raise ConfigError(
            f"--processors {processors} came, and this machine has {here}; use at most these, or join a cluster with "
            "--address"
        )
    configs = plan_products(folder, overrides)
    runs = {name: RunFolder(Path(config.out)) for name, config in configs.items()}
    out = next(iter(runs.values())).folder.parent
    waiting = {name: config for name, config in configs.items() if not is_complete(runs[name])}
    errors = dict[str, HeatlineError]()
    done = len(configs) - len(waiting)
    report_line(
        f"{format_count(len(configs), 'product')}: {done} already trained, {len(waiting)} to train, with "
        f"{format_count(processors, 'processor')} each; runs in {out}"
    )
    try:
        if waiting:
            with open_cluster(address):
                _train_all(waiting, processors, report_line, errors)
    except KeyboardInterrupt as error:
        done = sum(map(is_complete, runs.values()))
        raise Interrupted(
            f"stopped with {done} of {format_count(len(runs), 'product')} trained; continue with the same command"
        ) from error
    results = [
        ProductResult(product=name, run=str(run.folder), failed=str(errors[name]))
        if name in errors
        else read_result(name, run)
        for name, run in runs.items()
    ]
    return worst_first(results), errors


def _train_all(
    configs: dict[str, TrainConfig],
    processors: int,
    report_line: Callable[[str], None],
    errors: dict[str, HeatlineError],
) -> None:
    """Run the training of each product as a task of the open cluster; put those that fail into `errors`."""
    import ray
    from ray.exceptions import RayError

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
        try:
            error: HeatlineError | None = ray.get(task)
        except RayError as died:  # the kernel or Ray may have ended it for its memory, too
            report_line(str(died))
            error = TrainingError(
                f"its process died {RETRIES + 1} times, or met an unexpected error ({last_line(died)}); train it with "
                "a command of its own to see why, and if memory was short, let fewer products train at once, with more "
                "--processors each"
            )
        if error is not None:
            errors[name] = error
        outcome = "is trained" if error is None else f"failed: {error}"
        report_line(f"{name} {outcome} ({of - len(tasks)} of {of})")
