"""Linear regression with tuned decays: its closed forms against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data, hyper, problems

from ..helpers import cast


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    train, valid = (
        data.Regression(jnp.asarray(rng.normal(size=(num, 4))), jnp.asarray(rng.normal(size=num)), "toy")
        for num in (20, 7)
    )
    return cast(problems.NestedRegression(train, valid, -1.0), jnp.float64)


def players_of(problem):
    return tuple(jax.random.normal(key, (5,)) for key in jax.random.split(jax.random.key(0)))


def test_closed_forms_are_those_of_automatic_differentiation(problem):
    decay, weights = players_of(problem)
    hessian = jax.jit(jax.hessian(lambda w: problem.inner_loss(decay, w, None)))(weights)
    np.testing.assert_allclose(problem.curvature(decay), hessian, rtol=1e-9, atol=1e-14)
    exact = hyper.hypergradient(problem, (decay, weights), None, hyper.Implicit(hyper.Exact())).gradient
    np.testing.assert_allclose(problem.hypergradient((decay, weights)), exact, rtol=1e-8)
    best = jnp.asarray(problem.best_response(decay))
    np.testing.assert_allclose(jax.jit(jax.grad(problem.inner_loss, 1))(decay, best, None), 0, atol=1e-13)


def test_the_start_is_equal_decays_and_no_weights(problem):
    decay, weights = problem.init(jax.random.key(0))
    np.testing.assert_array_equal(decay, -np.ones(5))
    np.testing.assert_array_equal(weights, np.zeros(5))


def test_data_that_do_not_match_are_refused(problem, unchecked):
    with pytest.raises(ValueError, match=r"`train` must be a `nestax\.data\.Regression`"):
        problems.NestedRegression(data.circles(), problem.valid)  # pyright: ignore[reportArgumentType]
    narrow = data.Regression(problem.valid.inputs[:, :2], problem.valid.targets, "narrow")
    with pytest.raises(ValueError, match="`valid` must have as many features as `train`, 4, got 2"):
        problems.NestedRegression(problem.train, narrow)
