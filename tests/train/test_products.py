"""Many products on a Ray cluster: figures as of single trainings, and what happens if processes die."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from heatline.train.compose import compose
from heatline.train.evaluation.result import read_evaluation
from heatline.train.fit import fit
from heatline.train.products import ProductResult, cells_of, log_of, plan_products, worst_first
from heatline.train.run import RunFolder
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline, process_env, successful
from tests.edge.secured import until
from tests.ray_head import AGENTS, descendants, is_alive
from tests.train.blobs import draw_blobs, draw_plain

wait_for = functools.partial(until, within_s=300)  # starting Ray and importing PyTorch is slow


def trainer_of(runs: Path, product: str) -> int:
    """Return the process that trains a product: the one that holds its lock."""
    inode = f":{(runs / '.locks' / product).stat().st_ino}"
    # 12: FLOCK  ADVISORY  WRITE 4711 fd:01:2097 0 EOF
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    (pid,) = [int(fields[4]) for fields in locks if len(fields) == 8 and fields[5].endswith(inode)]
    return pid


def assert_trained_as_alone(run: RunFolder, data: Path, tiny: tuple[str, ...], alone_in: Path) -> None:
    """Train it alone, and compare all results but times and places."""
    alone = fit(compose([f"data={data}", "discover=true", f"out={alone_in}", *tiny]))
    assert run.out_of_fold.read_bytes() == alone.out_of_fold.read_bytes()
    untimed = {"seconds": 0.0, "tiles_per_s": None}
    one, other = (msgspec.structs.replace(each.read_summary(), **untimed) for each in (run, alone))
    assert one == other
    weights, expected = (torch.load(each.best, weights_only=True)["state_dict"] for each in (run, alone))
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    found, wanted = read_evaluation(run.report), read_evaluation(alone.report)
    assert (found.calibration, found.frames, found.warnings) == (wanted.calibration, wanted.frames, wanted.warnings)


def test_products_train_as_alone_though_a_worker_is_killed_and_one_fails(
    tiny: tuple[str, ...], tmp_path: Path, cluster: str
) -> None:
    """The long form has two that are trained: each process imports PyTorch."""
    products, runs = tmp_path / "products", tmp_path / "runs"
    draw_blobs(products / "boards", seed=1)
    draw_plain(products / "dials", ("a.png", "b.png"))
    (products / ".trash").mkdir()
    boards, killed = RunFolder(runs / "boards"), list[int]()

    def kill_in_the_middle() -> None:
        wait_for(boards.config.exists)
        os.kill(trainer_of(runs, "boards"), signal.SIGKILL)
        killed.append(1)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    command = ("train", "--products", products, "--processors", "1", f"out={runs}", *tiny)
    done = heatline(*command, "--address", cluster)
    killer.join()
    assert (done.returncode, len(killed)) == (9, 1), done.stderr
    assert re.search(r"dials failed \(.*labels.*\); correct that, then give the same command again", complaint(done))
    assert log_of(boards).read_text().count("with 1 processor\n") == 2, "it was started twice"
    assert_trained_as_alone(boards, products / "boards", tiny, tmp_path / "boards")
    assert re.findall(r"^ *(dials|boards)\b", done.stdout, re.MULTILINE) == ["dials", "boards"], "the worst is first"

    shutil.rmtree(products / "dials")
    before = boards.best.stat().st_mtime_ns
    again = heatline(*command, "--json")
    assert (again.returncode, boards.best.stat().st_mtime_ns) == (0, before), again.stderr
    assert "1 product: 1 already trained, 0 to train" in again.stderr
    (row,) = json.loads(again.stdout)["products"]
    assert (row["product"], row["run"], row["figures"]["frame.defective_frames"]) == ("boards", str(boards.folder), 8)
    assert row["threshold"] == read_evaluation(boards.report).calibration.score_threshold
    draw_blobs(products / "new", per_group=1)
    refused = heatline(*command, "recipe.steps=13")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (3, "", 1)
    assert "recipe.steps is 13 and was 12" in complaint(refused)
    assert not (runs / "new").exists(), "nothing is written"


@pytest.mark.long
@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_an_ended_command_leaves_no_process_and_is_continued(tiny: tuple[str, ...], tmp_path: Path, end: str) -> None:
    """Without --address, though RAY_ADDRESS names a cluster."""
    products, runs = tmp_path / "products", tmp_path / "runs"
    for seed, name in enumerate(("boards", "coils"), start=1):
        draw_blobs(products / name, seed=seed, per_group=3 - seed)
    environment = process_env({"RAY_ADDRESS": "127.0.0.1:1"})
    command = [str(HEATLINE), "train", "--products", str(products), "--processors", "1", f"out={runs}", *tiny]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_for(lambda: driver.poll() is not None or RunFolder(runs / "boards").config.exists())
            started = descendants(driver.pid)
            driver.send_signal(getattr(signal, end))
            _, errors = driver.communicate(timeout=WITHIN_SECONDS)
        finally:
            driver.kill()
    assert any("raylet" in name for name in started.values()), started
    if end != "SIGKILL":
        assert driver.returncode == 130
        message = re.search(r"stopped with (\d) of 2 products trained; continue with the same command", errors)
        finished = [name for name in ("boards", "coils") if RunFolder(runs / name).page.exists()]
        assert message is not None, errors
        assert int(message[1]) <= len(finished), errors  # under load one may be finished before the signal
    workers = {pid: name for pid, name in started.items() if name not in AGENTS}
    wait_for(lambda: not any(is_alive(pid, name) for pid, name in workers.items()))
    successful(subprocess.run(command, env=environment, capture_output=True, text=True, check=False))
    for name in ("boards", "coils"):
        assert_trained_as_alone(RunFolder(runs / name), products / name, tiny, tmp_path / name)


def test_the_worst_product_is_first_and_paths_are_a_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, dict[str, Any]] = {
        "failed": {"failed": "x"}, "bad": {"tile_ap": 0.0}, "good": {"tile_ap": 0.9}, "no defect": {},
    }  # fmt: skip
    results = [ProductResult(product=name, run="", **values) for name, values in known.items()]
    assert worst_first(results[::-1]) == results
    assert (cells_of(results[-1])[1:6], cells_of(results[0])[-1]) == (["-"] * 5, "failed: x")

    (tmp_path / "products" / "coils").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = plan_products(Path("products"), ["model.weights=trunk.pth", "features.folder=features"])["coils"]
    places = config.data, config.out, config.model.weights, config.features.folder
    expected = "products/coils", "runs/products/coils", "trunk.pth", "features"
    assert (places, config.discover) == (tuple(str(tmp_path / each) for each in expected), True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--products", "FOLDER/nothing"], 9, "is not a folder; name a folder with one folder per product"),
        (["--products", "FOLDER/products/boards"], 9, "is itself a folder of pictures; train it without --products"),
        (["--products", "FOLDER/empty"], 9, "holds no folder"),
        (["--products", "FOLDER/products", "resume=true"], 3, "the same command, given again, continues"),
        (["--products", "FOLDER/products", "data=x"], 3, "data=x cannot be given with --products"),
        (["--products", "FOLDER/products", "reference=x.png"], 3, "reference=x.png cannot be given with --products"),
        (["--products", "FOLDER/products", "recipe.stepz=3"], 3, "there is no key 'recipe.stepz'"),
        (["--products", "FOLDER/products", "recipe=finetune"], 3, "recipe=finetune trains the whole network"),
        (["--products", "FOLDER/products", "out=FOLDER/products/runs"], 3, "lies among the products"),
        (["--products", "FOLDER/products", "--processors", "9999"], 3, "--processors 9999 came, and this machine has"),
        (["--products", "FOLDER/products", "FOLDER"], 3, "there is no key"),
        (["FOLDER/products/boards", "--address", "x:1"], 2, "--address and --processors belong to --products"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "products" / "boards" / "images").mkdir(parents=True)
    refused = heatline("train", *(word.replace("FOLDER", str(tmp_path)) for word in words), cwd=tmp_path)
    assert refused.returncode == code, refused.stderr
    assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "runs").exists()
