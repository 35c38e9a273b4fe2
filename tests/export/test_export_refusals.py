"""Refusals of `heatline export`, each with one sentence and its exit code."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch

from heatline.edge.errors import Interrupted
from heatline.export.run_to_bundle import export_run
from heatline.train.run import load_run
from tests.command import complaint, heatline


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, which the test damages."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def refused(run: Path, target: Path, code: int, *excerpts: str, options: Sequence[str] = ()) -> None:
    result = heatline("export", run, "--to", target, *options)
    assert result.returncode == code, result.stderr
    sentence = complaint(result) if code != 2 else result.stderr
    for excerpt in excerpts:
        assert excerpt in sentence
    assert "exporting" not in result.stderr, "refused before any work"
    assert not target.parent.is_dir() or not target.exists()


def test_an_unknown_architecture_is_refused(run: Path, tmp_path: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("test_efficientnet", "resnet_of_tomorrow"))
    refused(run, tmp_path / "bundle", 3, "resnet_of_tomorrow", "is not a model of timm")


def test_a_checkpoint_of_another_architecture_is_refused(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"] = {"model.backbone.weight": torch.zeros(1)}
    torch.save(checkpoint, best)
    refused(run, tmp_path / "bundle", 11, "best.ckpt cannot be loaded", "train again")


def test_a_damaged_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    """torch would load it, and the gate would compare the graph with the damaged model."""
    best = run / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(best) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(best.read_bytes())
    middle = largest.header_offset + largest.file_size // 2
    data[middle : middle + 40] = bytes(byte ^ 0xFF for byte in data[middle : middle + 40])
    best.write_bytes(data)
    refused(run, tmp_path / "bundle", 11, "best.ckpt cannot be loaded", f"{largest.filename} in it is damaged")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused(run: Path, tmp_path: Path, content: bytes) -> None:
    (run / "checkpoints" / "best.ckpt").write_bytes(content)
    refused(run, tmp_path / "bundle", 11, "best.ckpt cannot be loaded (File is not a zip file)")


def test_an_unwritable_folder_is_refused_before_the_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "bundle"
    refused(run, target, 4, f"{tmp_path / 'file'} does not accept new files (Not a directory)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--smoothing", "nan"], "nan is not a finite number"),
        (["--false-reject", "nan"], "nan is not a finite number"),
        (["--precision", "int8", "--allow", "bf16"], "--allow names a precision that --precision leaves out"),
    ],
)
def test_an_invalid_option_is_refused(run: Path, tmp_path: Path, options: list[str], message: str) -> None:
    refused(run, tmp_path / "bundle", 2, message, options=options)


def test_a_checkpoint_with_code_in_it_is_not_run(run: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Payload()}, run / "checkpoints" / "best.ckpt")
    refused(run, tmp_path / "bundle", 11, "best.ckpt cannot be loaded")
    assert not (tmp_path / "ran").exists()


def test_a_run_of_another_version_is_refused(run: Path, tmp_path: Path) -> None:
    summary = msgspec.json.decode((run / "run.json").read_bytes())
    del summary["precision"]
    summary["score"] = 1
    (run / "run.json").write_bytes(msgspec.json.encode(summary))
    refused(run, tmp_path / "bundle", 9, "is not a run of `heatline train`", "precision")


def test_a_configuration_of_another_version_is_refused(run: Path, tmp_path: Path) -> None:
    with (run / "config.yaml").open("a") as config:
        config.write("colour: true\n")
    refused(run, tmp_path / "bundle", 3, "config.yaml", "colour")


def test_a_run_that_was_stopped_is_exported_with_a_warning(run: Path, tmp_path: Path) -> None:
    summary = msgspec.json.decode((run / "run.json").read_bytes())
    (run / "run.json").write_bytes(msgspec.json.encode(summary | {"finished": False}))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        raise Interrupted

    with pytest.raises(Interrupted):
        export_run(load_run(run), tmp_path / "bundle", name="b", version="1", false_reject=0.01, say=say)
    assert lines[0].startswith(
        f"warning: the training in {run} was stopped at step 6, before its end; to continue it: "
    )
