"""Circles and spirals: the curves they lie on, their noise, their seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data

MAKERS = {"circles": data.circles, "spirals": data.spirals}


@pytest.mark.parametrize("name", list(MAKERS))
def test_both_are_fixed_by_their_seed(name):
    make = MAKERS[name]
    dataset, again, other = make(seed=3), make(seed=3), make(seed=4)
    assert (dataset.name, dataset.input_shape, dataset.num_classes) == (name, (2,), 2)
    assert dataset.inputs.dtype == jnp.float32
    np.testing.assert_array_equal(np.bincount(dataset.labels), [500, 500])
    np.testing.assert_array_equal(dataset.inputs, again.inputs)
    np.testing.assert_array_equal(dataset.labels, again.labels)
    assert not np.array_equal(dataset.inputs, other.inputs)
    assert 5 < int(dataset.labels[:20].sum()) < 15  # shuffled, so that `split` gives both classes to both parts
    assert len(make(num=7)) == 7


def test_circles_are_those_of_scikit_learn():
    from sklearn.datasets import make_circles

    points, labels = make_circles(200, noise=0.2, factor=0.3, random_state=5)
    dataset = data.circles(200, noise=0.2, factor=0.3, seed=5)
    np.testing.assert_array_equal(dataset.inputs, np.asarray(points, np.float32))
    np.testing.assert_array_equal(dataset.labels, labels)


def test_best_error_on_circles():
    # The distance from the origin has a Rice distribution, so the best classifier has a closed form: the error that is
    # stated, and what it makes of drawn points.
    import scipy.stats  # for this file alone, so not while tests are collected

    grid = np.linspace(1e-3, 2, 20_001)
    densities = np.array([scipy.stats.rice.pdf(grid, radius / 0.1, scale=0.1) for radius in (1.0, 0.5)])
    threshold = grid[(densities[1] > densities[0])].max()
    assert threshold == pytest.approx(0.757, abs=1e-3)
    assert 0.5 * np.sum(densities.min(axis=0)) * (grid[1] - grid[0]) == pytest.approx(0.0064, abs=5e-5)
    dataset = data.circles(40_000)
    wrong = (np.linalg.norm(dataset.inputs, axis=1) < threshold) != np.asarray(dataset.labels == 1)
    assert wrong.mean() == pytest.approx(0.0064, abs=4 * np.sqrt(0.0064 / 40_000))


def test_spirals_lie_on_their_curve():
    import scipy.stats

    dataset = data.spirals(2_000, noise=0.0, turns=2.0)
    radius = np.linalg.norm(np.asarray(dataset.inputs, np.float64), axis=1)
    angle = 4 * np.pi * radius + np.pi * np.asarray(dataset.labels)
    np.testing.assert_allclose(dataset.inputs, radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-5)
    # the square of the radius is uniform in [0.01, 1]
    assert scipy.stats.kstest(radius**2, scipy.stats.uniform(0.01, 0.99).cdf).pvalue > 0.01
    noisy = np.asarray(data.spirals(2_000, noise=0.1, turns=2.0).inputs - dataset.inputs)
    assert noisy.std() == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(noisy.T)[0, 1]) < 0.1


def test_spirals_can_be_separated():
    # the nearest other point always has the same label, on another draw too
    train, test = (data.spirals(seed=seed) for seed in (0, 1))
    distances = np.linalg.norm(np.asarray(test.inputs)[:, None] - np.asarray(train.inputs)[None], axis=2)
    np.testing.assert_array_equal(np.asarray(train.labels)[distances.argmin(axis=1)], test.labels)


def test_made_under_jit():
    total = jax.jit(lambda: data.spirals(num=50).inputs.sum())()
    assert float(total) == pytest.approx(float(data.spirals(num=50).inputs.sum()), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.circles(1), "`num` must be an integer of at least 2.*got 1"),
        (lambda: data.spirals(2.5), "`num` must be"),  # pyright: ignore[reportArgumentType]
        (lambda: data.circles(noise=-0.1), "`noise` must be a finite standard deviation.*got -0.1"),
        (lambda: data.spirals(noise=float("nan")), "`noise` must be"),
        (lambda: data.circles(factor=1.0), "`factor`, the radius of the inner circle.*got 1.0"),
        (lambda: data.spirals(turns=0.0), "`turns` must be a positive number, got 0.0"),
        (lambda: data.spirals(seed=-1), "`seed` must be an integer.*got -1"),
        (lambda: data.circles(seed=0.5), "`seed` must be"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()
