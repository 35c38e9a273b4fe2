"""The products of a folder, and the training of one, as Ray runs it on a node. Importing this does not import torch."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.cluster import check_same_version
from heatline.edge.errors import ConfigError, HeatlineError, InputError
from heatline.edge.picture_folders import layout_of
from heatline.edge.util.text import format_count
from heatline.train.compose import compose, with_folder
from heatline.train.config import REFERENCE_WORDS, DenseRecipeConfig, TrainConfig
from heatline.train.files import lock_file
from heatline.train.run import RunFolder

_ONE_EACH = {
    "data": "each folder in the folder of products is a product",
    "reviewed": "it belongs to one product; train that one without --products",
    "resume": "the same command, given again, continues",
}
"""Keys that many products cannot share, and why."""
_PATHS = ("features.folder", "model.weights")


@dataclass(frozen=True)
class Product:
    """A product: a folder of labelled pictures, and the folder of its run."""

    name: str
    data: Path
    run: RunFolder


class Plan:
    """The trainings of all products.

    Args:
        folder: has one folder per product, each as `heatline train FOLDER` takes it.
        overrides: `key=value` for all products; `out` is the folder of their runs, by default `runs/` and the name of
            `folder`.
    Raises:
        InputError: `folder` holds no folders, or is itself a product.
        ConfigError: an override is wrong, or cannot be shared; the recipe trains the whole network; the runs would be
            among the products.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        for item in overrides:
            if (key := _key_of(item)) in _ONE_EACH:
                raise ConfigError(f"{item} cannot be given with --products: {_ONE_EACH[key]}")
            if key == "reference" and item.partition("=")[2] not in REFERENCE_WORDS:
                raise ConfigError(
                    f"{item} cannot be given with --products: a picture shows one product; train that alone"
                )
        outs = [item.partition("=")[2].strip("'\"") for item in overrides if _key_of(item) == "out"]
        folder = folder.resolve()
        self.out = Path(outs[-1]).resolve() if outs else Path("runs", folder.name).resolve()
        self._overrides = [_with_absolute_path(item) for item in overrides if _key_of(item) != "out"]
        self.products = [Product(data.name, data, RunFolder(self.out / data.name)) for data in _folders_in(folder)]
        if self.out.is_relative_to(folder):
            raise ConfigError(f"out={self.out} lies among the products; name a folder outside {folder}")
        self._first = self._compose(self.products[0])
        if not isinstance(self._first.recipe, DenseRecipeConfig):
            raise ConfigError(
                f"recipe={self._first.recipe.name} trains the whole network, which --products does not; leave it out, "
                "or train each product with a command of its own"
            )

    def configure(self, product: Product) -> TrainConfig:
        """Return the configuration of a product's training.

        Raises:
            ConfigError: its run was started with other values.
        """
        if product.run.config.exists():
            return self._compose(product, "resume=true")
        return msgspec.structs.replace(self._first, data=str(product.data), out=str(product.run.folder))

    def _compose(self, product: Product, *more: str) -> TrainConfig:
        return compose(with_folder([*self._overrides, f"out={product.run.folder}", *more], str(product.data)))


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


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _with_absolute_path(override: str) -> str:
    """Return an override with an absolute path, as the working directory of a node is another one."""
    key, _, value = override.partition("=")
    if key not in _PATHS or value in ("imagenet", "none", "null") or value[:1] in ("", "'", '"'):
        return override
    return f"{key}={Path(value).resolve()}"


@contextmanager
def own_processors(count: int) -> Iterator[None]:
    """Limit this process to `count` processors that no other training in this context has.

    Its threads, also those of PyTorch and OpenVINO, then share these, as if the machine had no others. If other
    trainings hold too many, processors are shared.

    Raises:
        TrainingError: the locks, in the folder for temporary files, cannot be written.
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


LOG = "training.log"
"""File of the run's folder: what the training reported."""


def train_product(config: TrainConfig, version: str, processors: int) -> HeatlineError | None:
    """Train a product, or resume its training; return the error if it cannot be trained.

    Another process that trains it into the same folder, such as one whose driver has died, is waited for.

    Args:
        config: its configuration; `resume` is set if the folder holds a run.
        version: of heatline, where the command was given.
        processors: number of processors of this node that the training uses.
    """
    try:
        check_same_version(version)
        run = RunFolder(Path(config.out))
        lock = run.folder.parent / ".locks" / run.folder.name
        with lock_file(lock, wait=True), own_processors(processors):
            from heatline.train.fit import fit  # PyTorch counts the processors as it is imported

            lines = [f"on {os.uname().nodename}, with {format_count(processors, 'processor')}"]

            def log(line: str) -> None:
                lines.append(line)
                if run.config.exists():  # only then is the folder this training's
                    with (run.folder / LOG).open("a", encoding="utf-8", errors="replace") as file:
                        file.writelines(f"{each}\n" for each in lines)
                    lines.clear()

            fit(msgspec.structs.replace(config, resume=run.config.exists()), report_line=log)
    except HeatlineError as error:
        return error
    return None
