"""The configuration of a training, and the refusal of wrong settings."""

from pathlib import Path

import msgspec
import pytest

from heatline.edge.errors import ConfigError
from heatline.train.compose import compose, read_config, write_config


def test_the_study_recipe_matches_the_studys_table() -> None:
    recipe = compose(["recipe=study", "data=pictures"]).recipe
    assert (recipe.optimiser, recipe.schedule, recipe.jitter_px, recipe.skip_ambiguous) == ("adam", "plateau", 0, False)
    assert (recipe.epochs, recipe.select, recipe.lr_interval) == (20, "accuracy", (1e-4, 1e-2))
    vit = compose(["recipe=study", "model=vit_tiny_patch16_224", "data=pictures"]).recipe
    assert (vit.optimiser, vit.lr, vit.lr_interval) == ("adamw", 8e-5, (1e-5, 1e-4))
    assert recipe.defective_share_of_batch is None
    augment = msgspec.structs.asdict(recipe.augment)
    assert augment.pop("flips")
    assert not any(augment.values())


def test_defaults_are_the_models_and_recipes_of_this_project(tmp_path: Path) -> None:
    config = compose([f"data={tmp_path}"])
    assert (config.model.name, config.recipe.name) == ("efficientnet_lite0_dense", "heatline")
    assert (config.model.head, config.recipe.steps_for(1_000), config.recipe.folds) == ("dense", 400, 5)
    assert (config.data, config.out) == (str(tmp_path), "runs/efficientnet_lite0_dense")
    assert compose([f"data={tmp_path}", "out=here"]).out == "here"
    assert compose([f"data={tmp_path}", "recipe=finetune"]).out == "runs/efficientnet_lite0_d"
    assert (config.tiles.tile_px, config.tiles.overlap_px, config.tiles.defective_share) == (224, 2, 0.01)


def test_a_written_configuration_is_read_back(tmp_path: Path) -> None:
    config = compose(["data=pictures", "split.val=[08]", "split.test=[10,'1e3',1_0,yes,null]", "seed=7"])
    assert [*config.split.val, *config.split.test] == ["08", "10", "1e3", "1_0", "yes", "null"]
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("key", ["split.val", "split.test", "classes"])
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
def test_names_in_lists_are_text(tmp_path: Path, key: str, value: str, names: list[str]) -> None:
    config = compose(["data=x", f"{key}={value}"])
    assert (config.classes if key == "classes" else getattr(config.split, key[6:])) == names
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_texts_of_any_key_are_not_parsed() -> None:
    assert compose(["data=x", "recipe=finetune", "trainer.precision=007"]).trainer.precision == "007"
    assert compose(["data=x", "classes=null"]).classes is None


@pytest.mark.parametrize("text", [r"^(\d+)_", "a=b,c (d)", "it's", "[x]", "${model.name}", "12", r"C:\pictures"])
def test_paths_and_patterns_are_not_parsed(text: str) -> None:
    config = compose(["data=x", f"split.pattern={text}", f"out={text}"])
    assert (config.split.pattern, config.out) == (text, text)
    assert compose(["data=x", "split.pattern=null"]).split.pattern is None


@pytest.mark.parametrize(
    ("overrides", "excerpt"),
    [
        ([], "data is missing; name the folder of pictures: data=FOLDER"),
        (
            ["data=x", "recipe.stepz=3"],
            "model=efficientnet_lite0_d; recipe has name, ",
        ),
        (["data=x", "steps=3"], "there is no key 'steps' with recipe=heatline and "),
        (["data=x", "data.folder=y"], "there is no key 'data.folder' with "),
        (["data=x", f"seed={2**32}"], "seed is '4294967296'; expected `int` <= 4294967295"),
        (["data=x", f"seed={2**70}"], "seed"),
        (["data=x", "+seed=1"], "there is no key '+seed' with "),
        (["data=x", "model=resnet18", "recipe=mine"], "recipe=mine is none of the choices: finetune, heatline, study"),
        (["data=x", "recipe.steps=many", "recipe=finetune"], "recipe.steps is 'many'; expected `int"),
        (
            ["data=x", "recipe=finetune", "recipe.epochs=2", "recipe.steps=5"],
            "leave one of them out, or set it to null",
        ),
        (
            ["data=x", "recipe=finetune", "recipe.epochs=null", "recipe.steps=null"],
            "leave one of them out, or set it to",
        ),
        (["data=x", "recipe.batch=8"], "there is no key 'recipe.batch' with recipe=heatline and "),
        (["data=x", "recipe=finetune", "recipe.folds=3"], "there is no key 'recipe.folds' with recipe=finetune and "),
        (
            ["data=x", "model=vit_tiny_patch16_224"],
            "recipe=heatline trains a dense head on a CNN, and model=vit_tiny_p",
        ),
        (["data=x", "trainer.accelerator=gpu"], "trainer.accelerator=gpu cannot be used by recipe=heatline"),
        (["data=x", "trainer.workers=4"], "expected 0: leave it out, or choose recipe=finetune"),
        (
            ["data=x", "trainer.precision=16-true"],
            "trainer.precision=16-true cannot be used by recipe=heatline; expected auto or 32-true or bf16-mixed",
        ),
        (["data=x", "discover=true", "split.group=board"], "split.group=board came with discover=true, which finds"),
        (["data=x", "discover=true", "split.pattern=^(.)"], "split.pattern=^(.) came with discover=true"),
        (
            ["data=x", "recipe=finetune", "reference=on"],
            "reference=on cannot be used by recipe=finetune; ",
        ),
        (["data=x", "split.val=[08"], "split.val=[08 cannot be understood; expected a list"),
        (["resume=true", "out=nowhere"], "nowhere holds no run to resume"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(overrides: list[str], excerpt: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose(overrides)
    assert excerpt in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_that_one_recipe_refuses_another_accepts() -> None:
    asked = ["data=x", "trainer.accelerator=gpu", "trainer.workers=4"]
    assert compose([*asked, "recipe=finetune"]).trainer.workers == 4
    assert compose(["data=x", "trainer.accelerator=cpu"]).trainer.accelerator == "cpu"


def test_a_resumed_run_uses_its_own_file_and_refuses_other_settings(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    started = compose(["data=pictures", "model=efficientnet_lite0", "recipe.steps=50", "seed=3", f"out={run}"])
    write_config(started, run / "config.yaml")
    expected = msgspec.structs.replace(started, resume=True)
    assert compose([f"out={run}", "resume=true"]) == expected
    again = [
        "data=pictures",
        "model=efficientnet_lite0",
        "recipe.steps=50",
        "model.width=32",
        f"out={run}",
        "resume=true",
    ]
    assert compose(again) == expected
    for change, excerpt in (
        ("recipe.steps=60", "recipe.steps is 60 and was 50"),
        ("data=elsewhere", "data is .*elsewhere and was .*pictures"),
        ("model.width=16", "model.width is 16 and was 32"),
        ("split.fractions=[0.8,0,0.2]", r"split.fractions is \[0.8, 0.0, 0.2\] and was \[1.0, 0.0, 0.0\]"),
        ("foo=1", "there is no key 'foo' with "),
        ("model=mobilenetv3_large", "model is mobilenetv3_large_dense and was efficientnet_lite0_dense when"),
    ):
        with pytest.raises(ConfigError, match=excerpt):
            compose([f"out={run}", "resume=true", change])


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: pictures\n")
    with pytest.raises(ConfigError, match=r"config.yaml does not fit the configuration: .* lacks the key "):
        read_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "nowhere.yaml")
