"""anomalib's models on the same folds, trained on good tiles in the peers' environment."""

import math
import subprocess
from dataclasses import dataclass
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

from heatline.bench.recipes.judge import Answers
from heatline.bench.recipes.one_fold import Fold, ReportLine
from heatline.bench.recipes.rows import Training
from heatline.bench.recipes.truth import Truth
from heatline.bench.watched_process import log_tail
from heatline.edge.errors import BenchError
from heatline.edge.inference.engine import OPENVINO_GRAPH
from heatline.edge.util.text import format_count
from heatline.train.compose import read_model
from heatline.train.config import TrainConfig
from heatline.train.dense.copies import digest_pictures
from heatline.train.files import write_atomically
from heatline.train.models.build import build_model
from heatline.train.models.weights import load_pretrained
from heatline.train.precision import choose_precision
from heatline.train.tiles import cut

AnomalibModel = Literal["patchcore", "padim", "supersimplenet"]
MODELS: tuple[AnomalibModel, ...] = get_args(AnomalibModel)
WORKER = Path(__file__).parent / "workers" / "anomalib_model.py"
TRUNK = "tf_efficientnet_lite0"
MOST_TILES = {"patchcore": 200, "padim": 1_000, "supersimplenet": 1_000}
"""Tiles to train on. The time of PatchCore grows with the square of the cells. PaDiM holds all features in memory."""


@dataclass(frozen=True)
class Peers:
    """Settings for anomalib's models."""

    python: Path
    """Python of the environment that has anomalib."""
    minutes: float
    """Longest training by gradients."""
    timed: bool = False
    """Whether the speed of their graphs is compared with heatline's; nothing else may run on the machine."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Job of the worker."""

    model: AnomalibModel
    weights: str
    folder: str
    """Has the folders `good`, of the tiles to train on, and `requested`."""
    requested: list[str]
    """Names of the tiles to answer."""
    tile_px: int
    scratch: str
    minutes: float
    """Longest training by gradients."""
    precision: str
    seed: int
    ours: str | None
    """Graph of heatline to compare the speed with; None: nothing is timed."""


def train_anomalib(
    fold: Fold, config: TrainConfig, model: AnomalibModel, work: Path, peers: Peers, report_line: ReportLine
) -> tuple[Answers, Training]:
    """Train on good tiles of the other folds, and answer.

    Args:
        work: the data set's folder, in which its tiles and the trunk's weights are stored.
    Raises:
        BenchError: the worker failed, or the environment does not exist.
    """
    if not peers.python.is_file():
        raise BenchError(
            f"{model} is run by {peers.python}, which does not exist; make it with `make peers-env`, or name another "
            "one with --peers-python"
        )
    truth, table = fold.truth, fold.truth.tiles.table
    tiles = tile_files(truth, work)
    rng = np.random.default_rng((fold.seed, fold.number))
    good = rng.permutation(np.flatnonzero(truth.is_clean & fold.trained[table.frame]))[: MOST_TILES[model]]
    requested = np.flatnonzero((fold.tested | fold.calibrating)[table.frame])
    if not len(good):
        raise BenchError(f"fold {fold.number} leaves no good tile to train on; name another set with --set")
    report_line(f"{model}: trains on {format_count(len(good), 'good tile')}, then answers {len(requested)}")
    with TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        (folder / "good").mkdir()
        for row in good.tolist():
            (folder / "good" / f"{row:06d}.png").symlink_to((tiles / f"{row:06d}.png").absolute())
        (folder / "requested").symlink_to(tiles.absolute())
        job = Job(
            model=model,
            weights=str(_weights(work).absolute()),
            folder=str(folder.absolute()),
            requested=[f"{row:06d}.png" for row in requested.tolist()],
            tile_px=truth.rule.tile_px,
            scratch=str((folder / "scratch").absolute()),
            minutes=peers.minutes,
            precision=choose_precision(config.trainer.precision, "cpu")[0],
            seed=config.seed,
            ours=str(_our_graph(config, folder).absolute()) if peers.timed else None,
        )
        (folder / "job.json").write_bytes(msgspec.json.encode(job))
        found = _run(peers.python, model, folder)
    logit = np.zeros(len(table), np.float32)
    maps = np.zeros((len(table), *found["map"].shape[1:]), np.float16)
    logit[requested], maps[requested] = found["logit"], found["map"]
    answers = fold.answered(logit, maps, knows_defects=False, one_scale=False, top_mean=False)
    speed = float(found["speed"])
    training = Training(
        seed=fold.seed,
        fold=fold.number,
        seconds=float(found["seconds"]),
        epochs=int(found["epochs"]),
        tiles_per_s=None,
        graph_mb=float(found["graph_bytes"]) / 1e6,
        speed=None if math.isnan(speed) else speed,
    )
    return answers, training


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


def _our_graph(config: TrainConfig, folder: Path) -> Path:
    """Write the graph of heatline's model without training, which is as fast as a trained one."""
    from heatline.export.onnx_graph import to_graphs  # only the timing needs this extra
    from heatline.export.openvino_ir import to_ir

    file = folder / "ours" / OPENVINO_GRAPH
    file.parent.mkdir()
    model, _ = build_model(config.model, config.tiles.tile_px)
    graphs = to_graphs(model.eval(), config.tiles.tile_px)
    for name, content in to_ir(graphs.for_openvino).files(OPENVINO_GRAPH).items():
        (file.parent / name).write_bytes(content)
    return file


def _run(python: Path, model: str, folder: Path) -> dict[str, NDArray[Any]]:
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(python.absolute()), str(WORKER), str(folder / "job.json")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    answers = folder / "scratch" / "answers.npz"
    if status or not answers.exists():
        raise BenchError(f"anomalib's {model} ended with {status}: {log_tail(log)}")
    with np.load(answers) as found:
        return dict(found)
