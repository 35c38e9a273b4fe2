"""The configuration of a training; and training from a folder of pictures to a run that can be loaded.

Tests import `whole_network` themselves: with it Lightning, which takes seconds in each process that collects tests.
"""

import itertools
import math
import os
import re
import resource
import shutil
import signal
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted, TrainingError
from heatline.train.batches import BatchSampler, cosine
from heatline.train.compose import compose, read_config, write_config
from heatline.train.config import TrainConfig
from heatline.train.fit import fit
from heatline.train.run import RunFolder, Split, load_run, split_by_fractions, split_by_name
from tests.command import complaint, heatline, run_json, sentence_of
from tests.train.blobs import draw_blobs, sort_tiles
from tests.train.trained import NAMED_SPLIT, SMALL, metrics_of

pytestmark = pytest.mark.usefixtures("one_thread")
PLATEAU = ("recipe.schedule=plateau", "recipe.lr=1e-7", "recipe.validate_every=1", "recipe.steps=8")
"""So low a rate that no validation is better than the first, so the schedule lowers it."""


def configured(data: Path, out: Path, *overrides: str) -> TrainConfig:
    return compose([f"data={data}", f"out={out}", *SMALL, *NAMED_SPLIT, *overrides])


def weights(run: RunFolder, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


@pytest.fixture(scope="session")
def run(trained_run: Path) -> RunFolder:
    """An uninterrupted training."""
    return RunFolder(trained_run)


@pytest.fixture(scope="module")
def plateau_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(configured(blobs, tmp_path_factory.mktemp("plateau") / "whole", *PLATEAU))


def test_a_run_writes_the_documented_files_and_is_loaded_with_its_best_weights(run: RunFolder, tmp_path: Path) -> None:
    from heatline.train.whole_network import COLUMNS

    assert sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*")) == [
        "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv", "run.json",
    ]  # fmt: skip
    rows, summary, loaded = metrics_of(run), run.read_summary(), load_run(run.folder)
    assert ([row["step"] for row in rows], rows[1]["lr"], set(rows[0])) == ([3, 6], 0, set(COLUMNS))
    assert (summary.finished, summary.steps, summary.data, summary.truth) == (True, 6, "blobs", "masks")
    assert summary.groups == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    best = next(row for row in rows if row["step"] == summary.best_step)
    assert summary.val == {name: value for name, value in best.items() if name.startswith("val_")}
    assert summary.tiles["train"]["ambiguous"] > 0  # training leaves them out, evaluation does not
    assert loaded.model.map_hw == (4, 4)
    state = {f"model.{name}": value for name, value in loaded.model.state_dict().items()}
    torch.testing.assert_close(state, {name: weights(run, "best")[name] for name in state}, rtol=0, atol=0)
    assert [image.group for image in loaded.split.images(loaded.data, "val")] == ["c"] * 3

    copy = RunFolder(shutil.copytree(run.folder, tmp_path / "run"))
    copy.best.write_bytes(run.best.read_bytes()[:5000])
    with pytest.raises(TrainingError, match="cannot be loaded"):
        load_run(copy.folder)
    copy.best.unlink()
    with pytest.raises(TrainingError, match=r"has no best\.ckpt"):
        load_run(copy.folder)
    with pytest.raises(InputError, match=r"is not a run of `heatline train` \(.*run\.json.*\); name the folder"):
        load_run(tmp_path)


def test_a_seed_trains_one_model_also_where_processes_cut_batches(run: RunFolder, blobs: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forking with threads, and more workers than cores
        assert_same_weights(fit(configured(blobs, tmp_path / "run", "trainer.workers=2")), run)


def interrupt(by: str, step: int, out: Path, overrides: list[str]) -> None:
    """Start a training, and end it after that step."""
    draw, as_killed = BatchSampler.draw, out.with_name("as killed")
    told = f"resume it with: heatline train out={out} resume=true$|^crash$"

    def draw_or_end(self: BatchSampler, number: int) -> Any:
        if number == step + 1:  # batches are drawn one step ahead
            shutil.copytree(out, as_killed)
            if by.startswith("SIG"):
                os.kill(os.getpid(), signal.Signals[by])
            else:
                raise RuntimeError("crash")
        return draw(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "draw", draw_or_end)
        if by == "SIGKILL":
            process = get_context("fork").Process(target=fit, args=(compose(overrides),))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        else:
            with pytest.raises(Interrupted if by.startswith("SIG") else RuntimeError, match=told):
                fit(compose(overrides))
    if by == "copy":
        shutil.rmtree(out)
        as_killed.rename(out)


@pytest.mark.parametrize(
    ("by", "step", "recipe"),
    [
        ("copy", 4, ()),  # continues with the files of a training that runs, as a kill leaves them
        pytest.param("SIGKILL", 4, (), marks=pytest.mark.long),  # kills a real process between two validations
        ("SIGTERM", 4, ()),
        pytest.param("SIGINT", 4, (), marks=pytest.mark.long),
        ("crash", 6, PLATEAU),  # resumes from the previous checkpoint
        pytest.param("crash", 1, (), marks=pytest.mark.long),  # before the first checkpoint
        pytest.param("SIGINT", 3, (), marks=pytest.mark.long),  # just after a validation
        pytest.param("SIGINT", 5, PLATEAU, marks=pytest.mark.long),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, by: str, step: int, recipe: tuple[str, ...]
) -> None:
    whole: RunFolder = request.getfixturevalue("plateau_run" if recipe else "run")
    assert not recipe or metrics_of(whole)[-1]["lr"] == pytest.approx(1e-8), "a tenth, at last"
    out = tmp_path / "run"
    interrupt(by, step, out, [f"data={blobs}", f"out={out}", *SMALL, *NAMED_SPLIT, *recipe])
    assert not RunFolder(out).read_summary().finished
    assert (out / "cache" / "index.json").exists()  # frames are not decoded again
    drawn, draw = list[int](), BatchSampler.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "draw", lambda self, number: (drawn.append(number), draw(self, number))[1])
        resumed = fit(compose([f"out={out}", "resume=true"]))
    assert min(drawn) >= step - 1, "it continues from the last checkpoint, not from the best"
    assert metrics_of(resumed) == metrics_of(whole)
    assert_same_weights(resumed, whole)
    summary = resumed.read_summary()
    assert (summary.val, summary.finished, resumed.cache.exists()) == (whole.read_summary().val, True, False)


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.long)])  # 6: it writes its last checkpoint
def test_a_full_disk_loses_no_file_and_no_step(run: RunFolder, blobs: Path, tmp_path: Path, step: int) -> None:
    from heatline.train.whole_network import MetricsTable

    written, (_, hard) = MetricsTable.on_validation_end, resource.getrlimit(resource.RLIMIT_FSIZE)

    def and_then_the_disk_is_full(self: MetricsTable, trainer: Any, module: Any) -> None:
        written(self, trainer, module)
        if trainer.global_step == step:  # files may not grow, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    out, told = tmp_path / "run", r"cannot be written .*its previous content is unchanged"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsTable, "on_validation_end", and_then_the_disk_is_full)
            assert re.search(told, sentence_of(TrainingError, fit, configured(blobs, out, "recipe.validate_every=2")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step - 2
    resumed = fit(compose([f"out={out}", "resume=true"]))
    assert [row["step"] for row in metrics_of(resumed)] == [2, 4, 6]
    assert_same_weights(resumed, run)  # validations change no weight


def test_a_finished_run_is_neither_overwritten_nor_trained_again(run: RunFolder, blobs: Path, tmp_path: Path) -> None:
    before = run.last.stat().st_mtime_ns
    again = heatline("train", f"data={blobs}", f"out={run.folder}", *SMALL, *NAMED_SPLIT)
    assert again.returncode == ConfigError.exit_code
    assert "already holds a run; continue it with resume=true, or choose another folder" in complaint(again)
    resumed = run_json("train", f"out={run.folder}", "resume=true")
    assert resumed == {"run": str(run.folder)} | msgspec.to_builtins(run.read_summary())
    assert run.last.stat().st_mtime_ns == before
    moved = RunFolder(shutil.copytree(run.folder, tmp_path / "run"))  # whose pictures are gone
    moved.config.write_text(moved.config.read_text().replace(str(blobs), str(tmp_path / "gone")))
    resumed = heatline("train", f"out={moved.folder}", "resume=true")
    assert (resumed.returncode, "is already finished" in resumed.stderr) == (0, True)


@pytest.mark.parametrize(
    ("overrides", "kind", "excerpt"),
    [
        (["data={0}/spoilt"], InputError, "a_0.png is not a picture that can be decoded"),
        (["split.val=[z]"], ConfigError, "there is no group 'z'"),
        (["split.pattern=_(\\d)", "split.val=[2]", "split.test=[]"], TrainingError, "0 are defective"),
        (["split.pattern=_(\\d)", "split.val=[0,1]", "split.test=[]"], TrainingError, "0 are defective"),
        (["truth=labels"], TrainingError, "is larger than a tile of 64 px and has only a label"),
        (["recipe.lr=1e20", "recipe.warmup=0"], TrainingError, "; lower the learning rate"),
        (["model.weights=nowhere.pth"], HeatlineError, "nowhere.pth is not a file"),
        (["trainer.accelerator=abacus"], ConfigError, "Lightning cannot train with accelerator=abacus"),
        (["trainer.precision=3-bit"], ConfigError, "precision=3-bit"),
        (["data={0}/spoilt", "out={0}/spoilt"], ConfigError, "is the data; name a folder"),
        (["out={0}/file"], ConfigError, "is a file; name a folder"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_sentence(
    blobs: Path, tmp_path: Path, overrides: list[str], kind: type[HeatlineError], excerpt: str
) -> None:
    (tmp_path / "file").touch()
    (draw_blobs(tmp_path / "spoilt") / "images" / "a_0.png").write_bytes(b"no picture")
    given = [item.replace("{0}", str(tmp_path)) for item in overrides]
    message = sentence_of(kind, lambda: fit(configured(blobs, tmp_path / "run", *given)))
    assert excerpt in message.replace("trainer.", "")
    # Else the corrected command could not be given again.
    assert (tmp_path / "run" / "config.yaml").exists() == ("lower" in excerpt)


@pytest.mark.parametrize("recipe", ["heatline", "finetune"])
@pytest.mark.parametrize(
    ("name", "foreign"), [("cache/notes.txt", "cache/notes.txt"), ("report/report.html", "report"), ("tex", "tex")]
)
def test_a_folder_of_other_things_is_left(blobs: Path, tmp_path: Path, recipe: str, name: str, foreign: str) -> None:
    own = tmp_path / "mine" / name
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    with pytest.raises(ConfigError, match=re.escape(f"mine holds '{foreign}', which no training wrote")):
        fit(compose([f"data={blobs}", f"out={tmp_path / 'mine'}", f"recipe={recipe}"]))
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_a_defective_picture_whose_mask_is_empty_is_left_out_and_named(tmp_path: Path) -> None:
    lines: list[str] = []
    data = draw_blobs(tmp_path / "blobs")
    cv2.imwrite(str(data / "masks" / "a_1.png"), np.zeros((150, 200), np.uint8))
    fit(configured(data, tmp_path / "run", "recipe.steps=1"), report_line=lines.append)
    assert [("1 picture is left out" in line, "a_1.png" in line) for line in lines].count((True, True)) == 1


def test_training_ends_early_without_improvement_and_is_then_finished(tmp_path: Path) -> None:
    """By the study's recipe, on good and defective folders."""
    small = [item for item in SMALL if not item.startswith("recipe=")]
    never_better = ("recipe.lr=1e-12", "recipe.steps=40", "recipe.validate_every=2", "recipe.patience=2")
    keys = ("recipe=study", "split.fractions=[0.5,0.5,0]", *never_better, "recipe.warmup=0")
    run = fit(compose([f"data={sort_tiles(tmp_path / 'tiles')}", f"out={tmp_path / 'run'}", *small, *keys]))
    summary = run.read_summary()
    assert (summary.finished, summary.steps < 40, run.cache.exists()) == (True, True, False)
    assert (summary.truth, summary.recipe, summary.groups["test"]) == ("labels", "study", [])
    assert sum(summary.tiles["train"].values()) == sum(summary.tiles["val"].values()) == 12
    steps = [row["step"] for row in metrics_of(run)]
    assert len(steps) - 1 - steps.index(summary.best_step) == 2
    # A killed training resumes from the last validation, not from the best one.
    stored = [torch.load(file, weights_only=True)["global_step"] for file in (run.last, run.best)]
    assert stored == [summary.steps, summary.best_step]


@pytest.mark.parametrize(("better", "worse"), [((0.9999999, 0.01), (1.0, 0.02)), ((0.95, 5.0), (0.94, 0.01))])
def test_among_equals_the_lower_loss_is_better(better: tuple[float, float], worse: tuple[float, float]) -> None:
    from heatline.train.whole_network import merit

    one, other = (merit(*torch.tensor(each, dtype=torch.float64)) for each in (better, worse))
    assert one > other


@given(steps=st.integers(1, 500), wanted=st.integers(1, 500))
def test_the_last_step_is_followed_by_a_validation(steps: int, wanted: int) -> None:
    from heatline.train.whole_network import plan_steps

    finetune = compose(["data=x", "recipe=finetune", f"recipe.steps={steps}", f"recipe.validate_every={wanted}"])
    planned, validate_every = plan_steps(finetune.finetune, samples=100)
    assert planned % validate_every == 0
    assert validate_every <= wanted
    assert steps <= planned < steps + planned // validate_every


def test_an_epoch_is_a_pass_over_the_samples_and_rates_rise_over_the_warm_up_and_fall_to_zero() -> None:
    from heatline.train.whole_network import plan_steps

    study = compose(["recipe=study", "data=x", "recipe.epochs=3"]).finetune
    assert (study.batch, plan_steps(study, samples=65)) == (32, (9, 3))
    rates = [cosine(step, steps=100, warmup=0.1) for step in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == rates[10] == 1
    assert (rates[55], rates[100]) == (pytest.approx(0.5, abs=0.01), pytest.approx(0))


def test_the_study_recipe_matches_the_studys_table() -> None:
    recipe = compose(["recipe=study", "data=pictures"]).recipe
    assert (recipe.optimiser, recipe.schedule, recipe.jitter_px, recipe.skip_ambiguous) == ("adam", "plateau", 0, False)
    assert (recipe.epochs, recipe.select, recipe.lr_interval) == (20, "accuracy", (1e-4, 1e-2))
    assert recipe.defective_share_of_batch is None
    assert [name for name, value in msgspec.structs.asdict(recipe.augment).items() if value] == ["flips"]
    vit = compose(["recipe=study", "model=vit_tiny_patch16_224", "data=pictures"]).recipe
    assert (vit.optimiser, vit.lr, vit.lr_interval) == ("adamw", 8e-5, (1e-5, 1e-4))


def test_defaults_are_the_models_and_recipes_of_this_project(tmp_path: Path) -> None:
    config = compose([f"data={tmp_path}"])
    assert (config.model.name, config.recipe.name) == ("efficientnet_lite0_dense", "heatline")
    assert (config.model.head, config.recipe.steps_for(1_000), config.recipe.folds) == ("dense", 400, 5)
    assert (config.data, config.out) == (str(tmp_path), "runs/efficientnet_lite0_dense")
    assert compose([f"data={tmp_path}", "out=here"]).out == "here"
    assert compose([f"data={tmp_path}", "recipe=finetune"]).out == "runs/efficientnet_lite0_d"
    assert (config.tiles.tile_px, config.tiles.overlap_px, config.tiles.defective_share) == (224, 2, 0.01)


@pytest.mark.parametrize("key", ["split.val", "classes"])
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("[597500_315]", ["597500_315"]),
        ("[08, 1e5 ,1_000,0x1f,.5]", ["08", "1e5", "1_000", "0x1f", ".5"]),
        ("[yes,null,True,inf,~]", ["yes", "null", "True", "inf", "~"]),
        (r"""["a,b",'c d',it's,'it''s',5']""", ["a,b", "c d", "it's", "it's", "5'"]),
        ("[NG/IMG_1,'{a}',$b,(c)]", ["NG/IMG_1", "{a}", "$b", "(c)"]),
        ("10,12", ["10", "12"]),
        ("[]", []),
    ],
)
def test_names_in_lists_are_text_also_when_read_back(tmp_path: Path, key: str, value: str, names: list[str]) -> None:
    config = compose(["data=x", f"{key}={value}", "seed=7"])
    assert (config.classes if key == "classes" else config.split.val) == names
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", [r"^(\d+)_", "a=b,c (d)", "it's", "[x]", "${model.name}", "12", r"C:\pictures"])
def test_paths_and_patterns_are_not_parsed(text: str) -> None:
    config = compose(["data=x", f"split.pattern={text}", f"out={text}"])
    assert (config.split.pattern, config.out) == (text, text)


@pytest.mark.parametrize(
    ("overrides", "excerpt"),
    [
        ([], "data is missing; name the folder of pictures: data=FOLDER"),
        (["data=x", "recipe.stepz=3"], "model=efficientnet_lite0_d; recipe has name, "),
        (["data=x", "steps=3"], "there is no key 'steps' with recipe=heatline and "),
        (["data=x", "data.folder=y"], "there is no key 'data.folder' with "),
        (["data=x", f"seed={2**32}"], "seed is '4294967296'; expected `int` <= 4294967295"),
        (["data=x", "+seed=1"], "there is no key '+seed' with "),
        (["data=x", "model=resnet18", "recipe=mine"], "recipe=mine is none of the choices: finetune, heatline, study"),
        (["data=x", "recipe.steps=many", "recipe=finetune"], "recipe.steps is 'many'; expected `int"),
        (["data=x", "recipe=finetune", "recipe.epochs=2", "recipe.steps=5"], "leave one of them out, or set it to"),
        (["data=x", "recipe=finetune", "recipe.epochs=null", "recipe.steps=null"], "leave one of them out, or set"),
        (["data=x", "recipe.batch=8"], "there is no key 'recipe.batch' with recipe=heatline and "),
        (["data=x", "recipe=finetune", "recipe.folds=3"], "there is no key 'recipe.folds' with recipe=finetune and "),
        (["data=x", "model=vit_tiny_patch16_224"], "recipe=heatline trains a dense head on a CNN, and model=vit_"),
        (["data=x", "trainer.accelerator=gpu"], "trainer.accelerator=gpu cannot be used by recipe=heatline"),
        (["data=x", "trainer.workers=4"], "expected 0: leave it out, or choose recipe=finetune"),
        (
            ["data=x", "trainer.precision=16-true"],
            "trainer.precision=16-true cannot be used by recipe=heatline; expected auto or 32-true or bf16-mixed",
        ),
        (["data=x", "discover=true", "split.group=board"], "split.group=board came with discover=true, which finds"),
        (["data=x", "discover=true", "split.pattern=^(.)"], "split.pattern=^(.) came with discover=true"),
        (["data=x", "recipe=finetune", "reference=on"], "reference=on cannot be used by recipe=finetune; "),
        (["data=x", "split.val=[08"], "split.val=[08 cannot be understood; expected a list"),
        (["resume=true", "out=nowhere"], "nowhere holds no run to resume"),
        (["data=x", "model=resnet5"], "resnet5 is not a model of timm"),
        (["data=x", "model=resnet18.mine"], "resnet18.mine is not a model of timm"),
        (["data=x", "model.fusion=max"], "there is no key 'model.fusion' with recipe=heatline and model=efficientnet"),
        (["data=x", "model=test_vit", "recipe=finetune", "model.stride=16"], "there is no key 'model.stride' with "),
        (["data=x", "model.fuzion=max"], "efficientnet_lite0_d; model has family, name, timm, weights, stride, head, "),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(overrides: list[str], excerpt: str) -> None:
    assert excerpt in sentence_of(ConfigError, compose, overrides)


def test_a_resumed_run_uses_its_own_file_and_refuses_other_settings(tmp_path: Path) -> None:
    started = compose(["data=pictures", "model=efficientnet_lite0", "recipe.steps=50", "seed=3", f"out={tmp_path}"])
    write_config(started, tmp_path / "config.yaml")
    expected, again = msgspec.structs.replace(started, resume=True), (f"out={tmp_path}", "resume=true")
    assert compose([*again]) == expected
    same = ("data=pictures", "model=efficientnet_lite0", "recipe.steps=50", "model.width=32")
    assert compose([*same, *again]) == expected
    for change, excerpt in (
        ("recipe.steps=60", "recipe.steps is 60 and was 50"),
        ("data=elsewhere", "data is .*elsewhere and was .*pictures"),
        ("split.fractions=[0.8,0,0.2]", r"split.fractions is \[0.8, 0.0, 0.2\] and was \[1.0, 0.0, 0.0\]"),
        ("foo=1", "there is no key 'foo' with "),
        ("model=mobilenetv3_large", "model is mobilenetv3_large_dense and was efficientnet_lite0_dense when"),
    ):
        with pytest.raises(ConfigError, match=excerpt):
            compose([*again, change])
    (tmp_path / "config.yaml").write_text("data: pictures\n")
    with pytest.raises(ConfigError, match=r"config.yaml does not fit the configuration: .* lacks the key "):
        read_config(tmp_path / "config.yaml")


BOARDS = ["01", "04", "07", "08", "10", "12"]


@given(
    groups=st.lists(st.text(min_size=1), min_size=3, max_size=60, unique=True),
    shares=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50)),
    seed=st.integers(0, 2**32),
    defective=st.integers(0, 60),
)
def test_every_group_is_in_exactly_one_part_and_no_wanted_part_is_empty(
    groups: list[str], shares: tuple[int, int, int], seed: int, defective: int
) -> None:
    with_defects, fractions = set(groups[:defective]), [share / sum(shares) for share in shares]
    split = split_by_fractions(groups, fractions, seed, with_defects)
    parts = [split.train, split.val, split.test]
    assert sorted(itertools.chain(*parts)) == sorted(groups)
    assert [bool(part) for part in parts] == [bool(share) for share in shares]
    if len(with_defects) >= 3 and len(groups) - len(with_defects) >= 3:
        assert all(with_defects & set(part) and set(part) - with_defects for part in parts if part)
    assert split_by_fractions(groups[::-1], fractions, seed, with_defects) == split


def test_rare_groups_with_defects_are_split_like_the_others_and_alike_on_every_machine() -> None:
    groups = [f"{number:03d}" for number in range(100)]
    for seed in range(5):
        split = split_by_fractions(groups, [0.7, 0.1, 0.2], seed, defective=groups[:10])
        assert [len(set(part) & set(groups[:10])) for part in (split.train, split.val, split.test)] == [7, 1, 2]
        assert [len(part) for part in (split.train, split.val, split.test)] == [70, 10, 20]
    assert split_by_fractions(BOARDS, [0.7, 0.1, 0.2], 0) == Split(("01", "08", "10", "12"), ("04",), ("07",))
    assert len({split_by_fractions(BOARDS, [0.7, 0.1, 0.2], seed) for seed in range(20)}) > 5


def test_named_groups_are_found_without_their_leading_zeros() -> None:
    for val, test in ((["08"], ["10", "12"]), ([8], [10, 12])):  # as a command line may read 08
        assert split_by_name(BOARDS, val, test) == Split(("01", "04", "07"), ("08",), ("10", "12"))
    assert split_by_name(BOARDS, ["8"], []) == Split(("01", "04", "07", "10", "12"), ("08",), ())
    assert split_by_name(["8", "08", "9"], ["08"], []).val == ("08",)
    assert split_by_name(["8", "08", "9"], [8], []).val == ("8",)


@pytest.mark.parametrize(
    ("groups", "val", "test", "excerpt"),
    [
        (BOARDS, ["99"], [], "there is no group '99' to split off; the groups are 01, 04, 07, 08, 10, 12"),
        (BOARDS, ["08"], [8], "group '08' is in split.val and in split.test"),
        (BOARDS, [], ["10"], "split.test is given and split.val is not"),
        (BOARDS, BOARDS, [], r"take all groups \(6\)"),
        (["08", "008", "9"], [8], [], "group 8 could be any of 008, 08; write it in full"),
    ],
)
def test_an_inconsistent_split_by_name_is_refused(
    groups: list[str], val: list[object], test: list[object], excerpt: str
) -> None:
    with pytest.raises(ConfigError, match=excerpt):
        split_by_name(groups, val, test)


@pytest.mark.parametrize(
    "fractions",
    [[0.7, 0.3], [0.7, 0.2, 0.2], [1.2, -0.1, -0.1], [0.8, 0.0, 0.2], [math.nan, 0.5, 0.5], [0.5, math.nan, 0.5], []],
)
def test_invalid_fractions_and_too_few_groups_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected three shares"):
        split_by_fractions(BOARDS, fractions, 0)
    with pytest.raises(ConfigError, match="there are too few groups, 2"):
        split_by_fractions(["a", "b"], [0.7, 0.1, 0.2], 0)
