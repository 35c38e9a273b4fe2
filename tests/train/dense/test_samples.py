"""The draws of a step: a function of seed and step, only of trained groups, and with all tiles of a bag."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import TrainingError
from heatline.train.dense.copies import Kind
from heatline.train.dense.samples import Draw, Sampler, Samples
from heatline.train.dense.tiles import LabelKind
from tests.train.dense.small import recipe_with, samples_of, tiles_of

seeds = st.integers(0, 2**32 - 1)
CELL = np.ones((1, 1))


def mixture(seed: int, groups: int, count: int = 40) -> Samples:
    """Tiles of all kinds in random groups; bags are whole frames; each synthetic defect has a donor of any group."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, count // 3, count)
    group_of, bagged = rng.integers(0, groups, count), rng.random(count) < 0.3
    known = [LabelKind.BAGGED if bagged[frame] else LabelKind(int(rng.integers(3))) for frame in frames]
    tiles = tiles_of([*known, LabelKind.GOOD], [*group_of[frames], groups - 1], [*frames, count])
    good = tiles.of(LabelKind.GOOD)
    pasted = [(int(rng.choice(good)), int(rng.choice(good)), CELL) for _ in range(20)]
    return samples_of(tiles, np.zeros((len(tiles), 1, 1)), pasted)


def trained_of(seed: int, samples: Samples, groups: int) -> np.ndarray:
    """Some groups, at least one of them with a good tile."""
    trained = np.random.default_rng(seed + 1).random(groups) < 0.6
    good = samples.groups[(samples.known == LabelKind.GOOD) & (samples.kind == Kind.TILE)]
    trained[good[0, 0]] = True
    return trained


def parts(draw: Draw) -> list[list[int]]:
    return [part.tolist() for part in (draw.located, draw.good, draw.synthetic, *draw.bags)]


@given(seeds, st.integers(1, 8), st.integers(0, 1000))
def test_a_sample_is_drawn_only_if_both_its_groups_are_trained_on(seed: int, groups: int, step: int) -> None:
    samples = mixture(seed, groups)
    trained = trained_of(seed, samples, groups)
    draw = Sampler(samples, trained, recipe_with(), seed).draw(step)
    for part in parts(draw):
        assert trained[samples.groups[part]].all()


@given(seeds, st.integers(0, 1000))
def test_each_part_of_a_draw_holds_its_kind_of_sample(seed: int, step: int) -> None:
    samples = mixture(seed, 3)
    recipe = recipe_with()
    draw = Sampler(samples, np.ones(3, np.bool_), recipe, seed).draw(step)
    assert np.isin(samples.known[draw.located], (LabelKind.MASKED, LabelKind.BOXED)).all()
    assert np.isin(samples.kind[draw.located], (Kind.TILE, Kind.COPY)).all()
    assert (samples.known[draw.good] == LabelKind.GOOD).all()
    assert len(draw.good) == recipe.good
    assert np.isin(samples.kind[draw.synthetic], (Kind.SYNTHETIC, Kind.TRANSPLANT)).all()
    assert len(draw.synthetic) == recipe.synthetic
    for bag in draw.bags:
        [frame] = set(samples.frame[bag].tolist())
        whole = (samples.frame == frame) & (samples.kind == Kind.TILE)
        assert np.array_equal(bag, np.flatnonzero(whole))  # every tile of the picture
        assert (samples.known[bag] == LabelKind.BAGGED).all()


@given(seeds)
def test_a_draw_depends_on_seed_and_step_and_nothing_else(seed: int) -> None:
    samples = mixture(seed, 3)
    everything = np.ones(3, np.bool_)
    sampler, same = (Sampler(samples, everything, recipe_with(), seed) for _ in range(2))
    forwards = [parts(sampler.draw(step)) for step in range(5)]
    backwards = [parts(same.draw(step)) for step in reversed(range(5))]
    assert forwards == backwards[::-1]
    assert len({str(each) for each in forwards}) > 1
    other = Sampler(samples, everything, recipe_with(), seed + 1)
    assert forwards != [parts(other.draw(step)) for step in range(5)]


def test_every_usable_sample_is_drawn_over_the_steps() -> None:
    samples = mixture(0, 3)
    sampler = Sampler(samples, np.ones(3, np.bool_), recipe_with(), 0)
    drawn = {row for step in range(200) for part in parts(sampler.draw(step)) for row in part}
    assert drawn == set(range(len(samples)))


def test_half_of_a_draw_are_tiles_and_half_are_copies() -> None:
    tiles = tiles_of([LabelKind.GOOD] * 9 + [LabelKind.MASKED], [0] * 10)
    plain = samples_of(tiles, np.zeros((10, 1, 1)))
    copied = Samples(
        kind=np.array([Kind.TILE] * 10 + [Kind.COPY] * 2, np.int8),
        known=np.concatenate([plain.known, plain.known[[0, 9]]]),
        groups=np.zeros((12, 2), np.int64),
        frame=np.zeros(12, np.int64),
        share=np.zeros((12, 1, 1), np.float16),
        reviewed=np.zeros(12, np.bool_),
    )
    draw = Sampler(copied, np.ones(1, np.bool_), recipe_with(located=5, good=8), 0).draw(0)
    assert np.bincount(copied.kind[draw.good]).tolist() == [4, 4]
    assert np.bincount(copied.kind[draw.located]).tolist() == [2, 3]
    assert len(draw.synthetic) == len(draw.bags) == 0


@pytest.mark.parametrize(("bags", "share"), [(2, 0.1), (20, 1.0), (30, 1.0)])
def test_few_bags_among_many_marked_tiles_are_drawn_rarely(bags: int, share: float) -> None:
    tiles = tiles_of([LabelKind.GOOD, *[LabelKind.MASKED] * 20, *[LabelKind.BAGGED] * bags], [0] * (21 + bags))
    samples = samples_of(tiles, np.zeros((len(tiles), 1, 1)))
    sampler = Sampler(samples, np.ones(1, np.bool_), recipe_with(bags=4), 0)
    drawn = sum(len(sampler.draw(step).bags) for step in range(500)) / 500
    assert drawn == pytest.approx(4 * share, rel=0.15)


def test_the_odds_count_tiles_with_marked_defects_and_whole_pictures_against_good_tiles() -> None:
    known = [LabelKind.GOOD] * 8 + [
        LabelKind.MASKED,
        LabelKind.BOXED,
        LabelKind.BAGGED,
        LabelKind.BAGGED,
        LabelKind.BAGGED,
    ]
    frames = [*range(10), 10, 10, 11]
    samples = samples_of(tiles_of(known, [0] * 13, frames), np.zeros((13, 1, 1)), [(0, 1, CELL)])
    assert samples.log_odds == pytest.approx(np.log(4 / 8))


def test_a_training_without_good_tiles_or_positives_is_refused() -> None:
    bags = samples_of(tiles_of([LabelKind.BAGGED, LabelKind.MASKED], [0, 1]), np.zeros((2, 1, 1)))
    with pytest.raises(TrainingError, match=r"^no tile of the training is known to be good, .*; add good pictures, "):
        Sampler(bags, np.ones(2, np.bool_), recipe_with(), 0)
    good = samples_of(tiles_of([LabelKind.GOOD], [0]), np.zeros((1, 1, 1)), [(0, 0, CELL)])
    with pytest.raises(TrainingError, match=r"^there is no defective picture, and recipe.synthetic is 0; add "):
        Sampler(good, np.ones(1, np.bool_), recipe_with(synthetic=0), 0)
    Sampler(good, np.ones(1, np.bool_), recipe_with(), 0)
    uncopied = samples_of(tiles_of([LabelKind.GOOD], [0]), np.zeros((1, 1, 1)))
    with pytest.raises(TrainingError, match=r"^there is no defective picture, and recipe.copies.most is 0; add "):
        Sampler(uncopied, np.ones(1, np.bool_), recipe_with(), 0)
    assert good.log_odds is None
