"""What the recipes on inverses compare with: their own formulas, against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np

from nestax.recipes.hyper import _common, inverse_accuracy, inverse_hessian

from ..helpers import cast


def players_of(problem):
    keys = jax.random.split(jax.random.key(0))
    size = problem.train.inputs.shape[1] + 1
    return tuple(jax.random.normal(k, (size,)) for k in keys)


def test_the_split_is_disjoint_and_standardized_by_its_training_part():
    problem = _common.regression("diabetes", 3)
    assert len(problem.train) + len(problem.valid) == 442 - 44
    np.testing.assert_allclose(problem.train.inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(problem.train.targets.std(), 1, rtol=1e-5)
    rows = np.concatenate([problem.train.inputs, problem.valid.inputs])
    assert len(np.unique(rows, axis=0)) == 442 - 44


def test_the_published_targets_are_the_loss_of_all_pairs():
    """The published loss subtracts all targets from every prediction; its gradient is that with targets at the mean."""
    problem = cast(_common.regression("diabetes", 1, standardize=False, broadcast=True), jnp.float64)
    original = cast(_common.regression("diabetes", 1, standardize=False), jnp.float64)
    players = players_of(problem)

    def all_pairs(weights):
        predictions = original.train.inputs @ weights[:-1] + weights[-1]
        return jnp.mean((predictions[:, None] - original.train.targets[None]) ** 2) + jnp.exp(players[0]) @ weights**2

    got = jax.jit(jax.grad(problem.inner_loss, 1))(*players, None)
    # the mean of the targets is stored in float32
    np.testing.assert_allclose(got, jax.jit(jax.grad(all_pairs))(players[1]), rtol=1e-6)


def test_counts_of_products_mean_the_same_for_every_method():
    """At 0 products the series is along v, CG from 0 is nothing, CG from v is v; as many as weights make CG exact."""
    problem = cast(_common.regression("diabetes", 0), jnp.float64)
    players = players_of(problem)
    matrix = problem.curvature(players[0])
    alpha = 1 / float(np.linalg.eigvalsh(matrix)[-1])
    start = {name: inverse_accuracy.estimate(problem, players, name, 0, alpha) for name in inverse_accuracy.METHODS}
    np.testing.assert_allclose(start["Neumann"], alpha * start[inverse_accuracy.CG_V], rtol=1e-12)
    np.testing.assert_allclose(start[inverse_accuracy.RANK_ONE], start["Neumann"], rtol=1e-12)
    assert not start[inverse_accuracy.CG_0].any()
    after = inverse_accuracy.estimate(problem, players, inverse_accuracy.CG_0, 14, alpha)
    np.testing.assert_allclose(after, problem.hypergradient(players), rtol=1e-5)


def test_the_series_of_rank_one_multiplies_by_the_mean_gradient():
    problem = cast(_common.regression("diabetes", 0), jnp.float64)
    decay, weights = players_of(problem)
    g = jax.jit(jax.grad(problem.inner_loss, 1))(decay, weights, None)
    v = jax.jit(jax.grad(problem.outer_loss, 1))(decay, weights, None)
    x = 0.01 * (v + (v - 0.01 * g * (g @ v)))
    got = inverse_accuracy.estimate(problem, (decay, weights), inverse_accuracy.RANK_ONE, 1, 0.01)
    np.testing.assert_allclose(got, -2 * x * jnp.exp(decay) * weights, rtol=1e-8)


def test_the_series_as_a_matrix():
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    factor = np.eye(2) - 0.4 * matrix
    expected = 0.4 * (np.eye(2) + factor + factor @ factor)
    np.testing.assert_allclose(inverse_hessian._series(matrix, 0.4, 3), expected, rtol=1e-6)
    assert inverse_hessian._dominance(np.array([[4.0, 1.0], [-1.0, 2.0]])) == 3.0
