"""Batches of small problems: losses against loops in NumPy, distributions against their moments, minima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import problems
from nestax.recipes.ml2o._common import lasso_minimum


def test_lasso_is_the_mean_over_instances(key):
    problem = problems.normal_lasso(key, 3.0, num_instances=4, rows=3, dim=2, l1=0.1)
    x = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (4, 2)))
    a, b = np.asarray(problem.matrix), np.asarray(problem.target)
    expected = np.mean([np.sum((a[i] @ x[i] - b[i]) ** 2) / 2 + 0.1 * np.sum(np.abs(x[i])) for i in range(4)])
    np.testing.assert_allclose(problem.losses((jnp.asarray(x),), None)[0], expected, rtol=1e-12)
    start = problems.normal_lasso(key, 3.0).init(key)[0]
    assert start.shape == (128, 10)
    np.testing.assert_allclose(start.std(), 0.01, rtol=0.1)


def test_distributions(key):
    normal = problems.normal_lasso(key, 25.0, num_instances=500)
    np.testing.assert_allclose(normal.matrix.std(), 25.0, rtol=0.02)
    np.testing.assert_allclose([normal.target.min(), normal.target.max()], [-1.0, 1.0], atol=0.01)
    mixed = problems.uniform_lasso(key, (1.0, 0.5, 0.1), num_instances=7)
    tops = np.asarray(mixed.matrix.max(axis=(1, 2)))
    np.testing.assert_allclose(tops, [1.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1], rtol=0.06)
    assert mixed.matrix.min() >= 0


def test_minimum_of_lasso(key):
    """Of a diagonal matrix by soft thresholding, in closed form."""
    diagonal, target = jnp.array([[2.0, 0.5, 1.0]]), jnp.array([[0.3, -0.4, 0.05]])
    problem = problems.LassoBatch(jnp.stack([jnp.diag(diagonal[0])]), target, l1=0.1)
    d, b = np.asarray(diagonal[0]), np.asarray(target[0])
    x = np.sign(b) * np.maximum(np.abs(d * b) - 0.1, 0) / d**2
    expected = np.sum((d * x - b) ** 2) / 2 + 0.1 * np.sum(np.abs(x))
    np.testing.assert_allclose(lasso_minimum(problem, 500), expected, rtol=1e-9)


def test_rosenbrock_batch(key):
    problem = problems.RosenbrockBatch(3)
    points = np.asarray(problem.init(key)[0])
    expected = np.mean([(1 - x) ** 2 + 100 * (y - x**2) ** 2 for x, y in points])
    np.testing.assert_allclose(problem.losses((jnp.asarray(points),), None)[0], expected, rtol=1e-12)
    assert problem.losses((jnp.ones((3, 2)),), None)[0] == 0
    np.testing.assert_allclose(problems.RosenbrockBatch(4_000).init(key)[0].std(), 1.0, rtol=0.05)


def test_rastrigin_batch(key):
    problem = problems.normal_rastrigin(key, 0.5, num_instances=2, rows=3, dim=4)
    x = np.asarray(problem.init(key)[0])
    a, b, c = (np.asarray(v) for v in (problem.matrix, problem.target, problem.weights))
    expected = np.mean([
        np.sum((a[i] @ x[i] - b[i]) ** 2) / 2 + 0.5 * np.sum(1 - c[i] * np.cos(2 * np.pi * x[i])) for i in range(2)
    ])  # fmt: skip
    np.testing.assert_allclose(problem.losses((jnp.asarray(x),), None)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: problems.normal_lasso(key, 0.0), "`sigma` must be a positive"),
        (lambda key: problems.normal_lasso(key, -1.0), "`sigma` must be a positive"),
        (lambda key: problems.normal_lasso(key, 1.0, dim=0), "`dim`"),
        (lambda key: problems.normal_lasso(key, 1.0, l1=-1.0), "`l1`"),
        (lambda key: problems.uniform_lasso(key, ()), "`bounds` must hold"),
        (lambda key: problems.uniform_lasso(key, (1.0, -1.0)), "`bounds` must be a positive"),
        (lambda key: problems.LassoBatch(jnp.ones((2, 3)), jnp.ones(2)), "`matrix` must have shape"),
        (lambda key: problems.LassoBatch(jnp.ones((2, 3, 1)), jnp.ones(2)), "`target` must have shape"),
        (lambda key: problems.LassoBatch(jnp.full((1, 1, 1), jnp.nan), jnp.ones((1, 1))), "`matrix` must be finite"),
        (lambda key: problems.RastriginBatch(jnp.ones((1, 1, 2)), jnp.ones((1, 1)), jnp.ones((1, 1))), "`weights`"),
    ],
)
def test_refused(make, message, key, unchecked):
    with pytest.raises(ValueError, match=message):
        make(key)
