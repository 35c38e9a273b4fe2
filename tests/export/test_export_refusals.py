"""What `heatline export` refuses, each in one sentence and with its exit code."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch

from edge.cli.main import heatline
from edge.errors import BundleError, HeatlineError
from tests.train.blobs import draw_blobs
from train.config import compose
from train.fit import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taught one step on small pictures, from a random start."""
    folder = tmp_path_factory.mktemp("refused")
    data = draw_blobs(folder / "blobs")
    config = compose(
        [
            f"data={data}", f"out={folder / 'run'}", "model=efficientnet_lite0_d", "model.weights=none",
            "tiles.tile_px=64", "recipe.steps=1", "recipe.batch=4", "recipe.validate_every=1",
            "recipe.jitter_px=8", "split.val=[c]", "split.test=[d]",
        ]
    )  # fmt: skip
    return fit(config, say=lambda line: None).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def export(run: Path, target: Path, *options: str) -> tuple[int, str]:
    """The command in a process of its own: exit code and standard error."""
    command = [sys.executable, "-m", "edge.cli.main", "export", str(run), "--to", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not target.parent.is_dir() or not target.exists()
    return done.returncode, done.stderr


def refused(run: Path, tmp_path: Path, code: int, *says: str) -> None:
    """The command in this process: starting one takes seconds. That errors become exit codes is all that it leaves out,
    and `test_a_checkpoint_that_holds_something_else` has that too.
    """
    with pytest.raises(HeatlineError) as raised:
        heatline.main(["export", str(run), "--to", str(tmp_path / "bundle")], standalone_mode=False)
    assert not (tmp_path / "bundle").exists()
    assert raised.value.exit_code == code
    sentence = str(raised.value)
    assert "\n" not in sentence
    for part in says:
        assert part in sentence


def test_an_unknown_architecture(run: Path, tmp_path: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("tf_efficientnet_lite0", "resnet_of_tomorrow"))
    refused(run, tmp_path, 3, "resnet_of_tomorrow", "is no model of timm")


def test_a_checkpoint_of_another_architecture(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"] = {"model.backbone.weight": torch.zeros(1)}
    torch.save(checkpoint, best)
    refused(run, tmp_path, 11, "best.ckpt cannot be loaded", "train again")


@pytest.mark.long
def test_a_checkpoint_that_holds_something_else(run: Path, tmp_path: Path) -> None:
    """In a process of its own, as a user runs it."""
    (run / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
    code, error = export(run, tmp_path / "bundle")
    (line,) = [line for line in error.splitlines() if line.startswith("heatline: ")]
    assert code == 11, error
    assert "Traceback" not in error
    assert "best.ckpt cannot be loaded" in line


def test_a_checkpoint_with_a_few_other_bytes(run: Path, tmp_path: Path) -> None:
    """torch would load it, and the gate would hold the graph to what came of it."""
    best = run / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(best) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(best.read_bytes())
    middle = largest.header_offset + largest.file_size // 2
    data[middle : middle + 40] = bytes(byte ^ 0xFF for byte in data[middle : middle + 40])
    best.write_bytes(data)
    refused(run, tmp_path, 11, "best.ckpt cannot be loaded", f"{largest.filename} in it is damaged")


def test_an_empty_checkpoint(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")
    refused(run, tmp_path, 11, "best.ckpt cannot be loaded (File is not a zip file)")


def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError) as raised:
        heatline.main(["export", str(run), "--to", str(tmp_path / "file" / "bundle")], standalone_mode=False)
    assert f"nothing can be made in {tmp_path / 'file'} (Not a directory)" in str(raised.value)
    assert "exporting" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--smoothing", "--false-reject"])
def test_a_share_that_is_no_number(run: Path, tmp_path: Path, option: str) -> None:
    code, error = export(run, tmp_path / "bundle", option, "nan")
    assert code == 2
    assert "nan is no finite number" in error


def test_a_checkpoint_with_code_in_it_is_not_run(run: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Payload()}, run / "checkpoints" / "best.ckpt")
    refused(run, tmp_path, 11, "best.ckpt cannot be loaded")
    assert not (tmp_path / "ran").exists()


def test_a_run_of_another_version(run: Path, tmp_path: Path) -> None:
    summary = msgspec.json.decode((run / "run.json").read_bytes())
    del summary["precision"]
    summary["score"] = 1
    (run / "run.json").write_bytes(msgspec.json.encode(summary))
    refused(run, tmp_path, 9, "is no run of `heatline train`", "precision")


def test_a_configuration_of_another_version(run: Path, tmp_path: Path) -> None:
    with (run / "config.yaml").open("a") as config:
        config.write("colour: true\n")
    refused(run, tmp_path, 3, "config.yaml", "colour")


def test_allowing_a_precision_that_is_not_made(run: Path, tmp_path: Path) -> None:
    code, error = export(run, tmp_path / "bundle", "--precision", "int8", "--allow", "bf16")
    assert code == 2
    assert "--allow names a precision that --precision leaves out" in error
