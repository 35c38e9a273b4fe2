"""anomalib's models on the same folds, trained on good tiles in the peers' environment."""

import subprocess
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import cv2
import msgspec
import numpy as np
import timm
import torch
from numpy.typing import NDArray

from heatline.bench.recipes.folds import Answers, Fold, ReportLine, Training, Truth
from heatline.bench.watched_process import log_tail
from heatline.edge.errors import BenchError
from heatline.edge.util.text import format_count
from heatline.train.compose import read_model
from heatline.train.dense.samples import digest_pictures
from heatline.train.files import write_atomically
from heatline.train.frames import cut
from heatline.train.models.weights import load_pretrained

AnomalibModel = Literal["patchcore", "padim"]
MODELS: tuple[AnomalibModel, ...] = get_args(AnomalibModel)
WORKER = Path(__file__).parent / "anomalib_worker.py"
TRUNK = "tf_efficientnet_lite0"
MOST_TILES = {"patchcore": 200, "padim": 1_000}
"""Tiles to train on. The time of PatchCore grows with the square of the cells. PaDiM holds all features in memory."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Job of the worker."""

    model: AnomalibModel
    weights: str
    folder: str
    """Has the folders `good`, of the tiles to train on, and `requested`."""
    requested: list[str]
    """Names of the tiles to answer."""
    seed: int


def train_anomalib(
    fold: Fold, model: AnomalibModel, work: Path, python: Path, report_line: ReportLine
) -> tuple[Answers, Training]:
    """Train on good tiles of the other folds, and answer.

    Args:
        work: the data set's folder, in which its tiles and the trunk's weights are stored.
        python: Python of the environment that has anomalib.
    Raises:
        BenchError: the worker failed, or the environment does not exist.
    """
    if not python.is_file():
        raise BenchError(
            f"{model} is run by {python}, which does not exist; make it with `make peers-env`, or name another one "
            "with --peers-python"
        )
    truth, table = fold.truth, fold.truth.tiles.table
    tiles, rng = tile_files(truth, work), np.random.default_rng((fold.seed, fold.number))
    good = rng.permutation(np.flatnonzero(truth.is_clean & fold.trained[table.frame]))[: MOST_TILES[model]]
    requested = np.flatnonzero((fold.tested | fold.calibrating)[table.frame])
    if not len(good):
        raise BenchError(f"fold {fold.number} leaves no good tile to train on; name another set with --set")
    report_line(f"{model}: trains on {format_count(len(good), 'good tile')}, then answers {len(requested)}")
    with TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        (folder / "good").mkdir()
        for row in good.tolist():
            (folder / "good" / f"{row:06d}.png").symlink_to((tiles / f"{row:06d}.png").absolute())
        (folder / "requested").symlink_to(tiles.absolute())
        job = Job(
            model=model,
            weights=str(_weights(work).absolute()),
            folder=str(folder.absolute()),
            requested=[f"{row:06d}.png" for row in requested.tolist()],
            seed=fold.seed,
        )
        (folder / "job.json").write_bytes(msgspec.json.encode(job))
        found = _run(python, model, folder)
    logit = np.zeros(len(table), np.float32)
    maps = np.zeros((len(table), *found["map"].shape[1:]), np.float16)
    logit[requested], maps[requested] = found["logit"], found["map"]
    answers = Answers(
        fold.seed, fold.number, logit, maps, fold.tested, fold.calibrating, knows_defects=False, top_mean=False
    )
    return answers, Training(seed=fold.seed, fold=fold.number, seconds=float(found["seconds"]))


def tile_files(truth: Truth, work: Path) -> Path:
    """Return the folder of all grid tiles as PNG, by their rows; it is written once for equal pictures and tiles."""
    table = truth.tiles.table
    identity = sha256(f"{truth.rule.tile_px} {digest_pictures(truth.store.images)}".encode())
    for column in (table.frame, table.y, table.x):
        identity.update(column.tobytes())
    folder = work / f"tiles_{identity.hexdigest()[:12]}"
    done = folder / "done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tile = np.empty((truth.rule.tile_px, truth.rule.tile_px, 3), np.uint8)
        for row in range(len(table)):
            cut(truth.store, int(table.frame[row]), int(table.y[row]), int(table.x[row]), tile)
            if not cv2.imwrite(str(folder / f"{row:06d}.png"), tile[..., ::-1]):
                raise BenchError(f"{folder} takes no more tiles; make room, or name another --work")
        done.touch()
    return folder


def _weights(work: Path) -> Path:
    """Return the file of the trunk's ImageNet weights, with timm's names."""
    file = work / f"{TRUNK}.pth"
    if not file.exists():
        network = timm.create_model(TRUNK, pretrained=False)
        load_pretrained(network, read_model("efficientnet_lite0"))
        write_atomically(file, lambda place: torch.save(network.state_dict(), place))
    return file


def _run(python: Path, model: str, folder: Path) -> dict[str, NDArray[Any]]:
    log, answers = folder / "log", folder / "answers.npz"
    with log.open("wb") as out:
        command = [str(python.absolute()), str(WORKER), str(folder / "job.json")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    if done.returncode or not answers.exists():
        raise BenchError(f"anomalib's {model} ended with {done.returncode}: {log_tail(log)}")
    with np.load(answers) as found:
        return dict(found)
