"""The configuration of a training, its split of groups, and the refusal of wrong settings."""

import itertools
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import ConfigError
from heatline.train.compose import compose, read_config, write_config
from heatline.train.run import Split, split_by_fractions, split_by_name


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
def test_names_in_lists_are_text_also_when_they_are_read_back(
    tmp_path: Path, key: str, value: str, names: list[str]
) -> None:
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
    with pytest.raises(ConfigError) as raised:
        compose(overrides)
    assert excerpt in str(raised.value)
    assert "\n" not in str(raised.value)


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


# Each group lies in one part only.


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
