"""The loss of a step, compared with the formula in NumPy, and the direction of its gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.dense.fit_head import StepMaps, step_loss

CELLS, TOP = 5, 4
Array = NDArray[np.float64]


def softplus(z: Array | float) -> Array:
    return np.asarray(np.logaddexp(0, z))


def top_mean(maps: Array) -> Array:
    return np.array([np.sort(one.ravel())[-TOP:].mean() for one in maps])


def around_defects(maps: Array, share: Array, exact: NDArray[np.bool_]) -> float:
    """Half the mean over cells that are more than 12 % defective, half the mean over untouched cells."""
    hot = [softplus(-maps[i][share[i] > 0.12]) for i in range(len(maps)) if exact[i]]
    cold = [softplus(maps[i][share[i] == 0]) for i in range(len(maps))]
    means = [np.concatenate(parts).mean() if sum(map(len, parts)) else 0.0 for parts in (hot, cold)]
    return float(0.5 * means[0] + 0.5 * means[1])


def expected(parts: dict[str, Array], sizes: list[int], exact: NDArray[np.bool_], shift: float) -> float:
    """The formula of RECIPE: tiles, cells of good tiles, cells around known defects."""
    good, located = parts["good"] + shift, parts["located"] + shift
    positives = list(softplus(-top_mean(located)))
    start = 0
    for size in sizes:
        odds = np.exp(top_mean(parts["bagged"][start : start + size])).sum()
        positives.append(softplus(-(np.log(odds) + shift)))
        start += size
    loss = 0.75 * softplus(top_mean(good)).mean() + softplus(good).mean()
    loss += 0.25 * np.mean(positives) if positives else 0.0
    if len(located):
        loss += around_defects(located, parts["located_share"], exact)
    if len(parts["synthetic"]):
        loss += around_defects(parts["synthetic"] + shift, parts["synthetic_share"], np.ones(999, np.bool_))
    return float(loss)


def drawn(seed: int, located: int, good: int, synthetic: int, sizes: list[int]) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(seed)
    counts = {"located": located, "good": good, "synthetic": synthetic, "bagged": sum(sizes)}
    parts = {name: rng.normal(0, 3, (count, CELLS, CELLS)) for name, count in counts.items()}
    for name in ("located", "synthetic"):
        share = rng.choice([0, 0, 0.05, 0.12, 0.13, 1], (counts[name], CELLS, CELLS))
        parts[f"{name}_share"] = share
    return parts, rng.random(located) < 0.5


def step(parts: dict[str, Array], sizes: list[int], exact: Array) -> StepMaps:
    tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
    return StepMaps(located_exact=torch.from_numpy(exact), sizes=sizes, **tensors)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(0, 4),
    st.lists(st.integers(1, 4), max_size=3),
    st.floats(-4, 4),
)
def test_the_loss_equals_its_formula(
    seed: int, located: int, good: int, synthetic: int, sizes: list[int], shift: float
) -> None:
    parts, exact = drawn(seed, located, good, synthetic, sizes)
    loss = step_loss(step(parts, sizes, exact), shift, TOP)
    assert float(loss) == pytest.approx(expected(parts, sizes, exact, shift), rel=1e-6)


def gradients(sizes: list[int], exact: NDArray[np.bool_]) -> tuple[dict[str, Array], StepMaps]:
    parts, _ = drawn(3, len(exact), 4, 3, sizes)
    maps = step(parts, sizes, exact)
    for name in ("located", "good", "synthetic", "bagged"):
        getattr(maps, name).requires_grad_()
    step_loss(maps, -0.5, TOP).backward()
    found: dict[str, Array] = {}
    for name in ("located", "good", "synthetic", "bagged"):
        if (grad := getattr(maps, name).grad) is not None:  # no bags, no gradient
            found[name] = grad.numpy()
    return found, maps


def test_a_higher_cell_of_a_good_tile_raises_the_loss_and_one_of_a_bag_lowers_it() -> None:
    found, maps = gradients([2, 3], np.array([True, True]))
    assert (found["good"] > 0).all()
    assert (found["bagged"] <= 0).all()
    highest = maps.bagged.detach().flatten(1).argmax(dim=1).numpy()
    assert (found["bagged"].reshape(5, -1)[np.arange(5), highest] < 0).all()


def test_covered_cells_of_synthetic_defects_rise_untouched_ones_fall_others_do_not_count() -> None:
    found, maps = gradients([], np.array([True]))
    share = maps.synthetic_share.numpy()
    assert (found["synthetic"][share > 0.12] < 0).all()
    assert (found["synthetic"][share == 0] > 0).all()
    assert not found["synthetic"][(share > 0) & (share <= 0.12)].any()


def test_cells_in_a_box_do_not_count_and_all_outside_fall() -> None:
    found, maps = gradients([], np.array([False, False]))
    share = maps.located_share.numpy()
    lowest = maps.located.detach().flatten(1).argsort(dim=1)[:, : CELLS**2 - TOP].numpy()  # not part of the logit
    for grad, inside, cells in zip(found["located"].reshape(2, -1), share.reshape(2, -1), lowest, strict=True):
        assert not grad[cells][inside[cells] > 0].any()
        assert (grad[cells][inside[cells] == 0] > 0).all()
