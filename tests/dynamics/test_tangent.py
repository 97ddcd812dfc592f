"""Lyapunov exponents by the tangent lift, against closed forms and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax.dynamics import HenonMap, TangentStep, init_frame

from ..helpers import Bilinear, Map, NoisyQuadratic, Quadratic, begin


def exponents(step, carry, xs=None, num_steps=None, directions=None, transient=0):
    out = nx.rollout(TangentStep(step), (carry, init_frame(carry, directions)), xs, num_steps=num_steps)
    return out.info[transient:].mean(axis=0), out


START = (jnp.array(0.1), jnp.array(0.1))


def test_henon_exponents_to_the_printed_precision():
    """Published: 0.419 and -1.623. A fifth of a million steps leave a statistical error below 0.0005."""
    found, out = exponents(HenonMap(), START, num_steps=200_000, transient=1_000)
    np.testing.assert_allclose(found, [0.419, -1.623], atol=1e-3)
    # the determinant of the Jacobian is -b everywhere, so every single step has sum log b
    np.testing.assert_allclose(out.info.sum(axis=1), np.log(0.3), rtol=0, atol=1e-10)
    frame = out.carry[1]
    np.testing.assert_allclose(frame.T @ frame, np.eye(2), atol=1e-14)


def test_one_direction_gives_the_leading_exponent():
    step = HenonMap()
    both, _ = exponents(step, START, num_steps=2_000)
    leading, out = exponents(step, START, num_steps=2_000, directions=1)
    np.testing.assert_allclose(leading, both[:1], rtol=1e-10)
    assert out.carry[1].shape == (2, 1)


def test_henon_under_vmap():
    b = np.array([0.1, 0.2, 0.3])

    def run(b):
        return exponents(HenonMap(1.2, b), START, num_steps=500)[0]

    batch = jax.vmap(run)(jnp.array(b))
    np.testing.assert_allclose(batch.sum(axis=1), np.log(b), atol=1e-10)
    for i in range(2):  # periodic attractors: in the chaotic third run rounding differences would grow
        np.testing.assert_allclose(batch[i], run(jnp.array(b[i])), rtol=1e-9)


def test_gradient_descent_on_a_quadratic():
    h, lr = np.array([0.3, 1.0, 2.5]), 0.6  # the factor of the last is negative
    optimizer = nx.optimizers.sgd(lr)
    problem = Quadratic(jnp.array(h))
    carry, _ = begin(problem, optimizer, 20, jax.random.key(0))
    found, _ = exponents(nx.OptimizerStep(problem, optimizer), carry, num_steps=20)
    np.testing.assert_allclose(found, np.log(np.abs(1 - lr * h)), rtol=1e-12)
    _, once = exponents(nx.OptimizerStep(problem, optimizer), carry, num_steps=1)
    np.testing.assert_allclose(once.carry[1], np.diag(np.sign(1 - lr * h)))  # R has a positive diagonal, so Q has signs


def test_gradient_descent_under_vmap_over_rates():
    h, rates = np.array([0.3, 1.0]), np.array([0.1, 0.6, 1.7, 3.0])
    problem = Quadratic(jnp.array(h))

    def run(lr):
        optimizer = nx.optimizers.sgd(lr)
        carry, _ = begin(problem, optimizer, 10, jax.random.key(0))
        return exponents(nx.OptimizerStep(problem, optimizer), carry, num_steps=10)[0]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array(rates)), np.log(np.abs(1 - rates[:, None] * h)), rtol=1e-11)


def test_simultaneous_gradient_descent_on_the_bilinear_game():
    lr = 0.2
    problem, optimizer = Bilinear(jnp.array(1.0)), nx.optimizers.sgd(lr)
    carry, _ = begin(problem, optimizer, 30, jax.random.key(0))
    found, _ = exponents(nx.OptimizerStep(problem, optimizer), carry, num_steps=30)
    np.testing.assert_allclose(found, [0.5 * np.log(1 + lr**2)] * 2, rtol=1e-12)


def test_momentum_has_the_exponents_of_its_companion_matrix():
    """The state counts: two tangent directions per coordinate, with complex eigenvalues of modulus sqrt(beta)."""
    h, lr, beta = 1.0, 0.3, 0.9
    problem, optimizer = Quadratic(jnp.array([h])), nx.optimizers.momentum(lr, beta)
    carry, _ = begin(problem, optimizer, 4_000, jax.random.key(0))
    found, out = exponents(nx.OptimizerStep(problem, optimizer), carry, num_steps=4_000)
    np.testing.assert_allclose(out.info.sum(axis=1), np.log(beta), atol=1e-12)  # determinant beta, every step
    np.testing.assert_allclose(found, [0.5 * np.log(beta)] * 2, atol=1e-3)  # the transient decays as 1 / steps


def test_integers_in_the_state_are_no_direction_and_samples_pass_through(key):
    problem, optimizer = NoisyQuadratic(jnp.array(0.3)), nx.optimizers.adam(0.05)
    carry, xs = begin(problem, optimizer, 15, key)
    _, out = exponents(nx.OptimizerStep(problem, optimizer), carry, xs)
    assert out.carry[1].shape == (9, 9)  # three of the players, three and three of the moments; not the counter
    plain = nx.rollout(nx.OptimizerStep(problem, optimizer), carry, xs)
    for a, b in zip(jax.tree.leaves(out.carry[0]), jax.tree.leaves(plain.carry)):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_failing_run_stops_the_exponents():
    """y -> y^2 from 10 overflows at the 9th squaring (10^256 -> inf); the exponent of step t is log 2 y_t."""
    step = TangentStep(Map(lambda y: y**2))
    carry = (jnp.array([10.0]), init_frame(jnp.array([10.0])))
    out = nx.rollout(step, carry, None, num_steps=12, throw=False)
    assert out.result == nx.RESULTS.nonfinite
    assert out.num_steps == 8
    np.testing.assert_allclose(out.carry[0], [1e256], rtol=1e-12)
    np.testing.assert_allclose(out.info[:8, 0], np.log(2.0) + 2.0 ** np.arange(8) * np.log(10.0), rtol=1e-13)
    assert jnp.all(jnp.isnan(out.info[8:]))
    batch = jax.vmap(lambda y: nx.rollout(step, (y, carry[1]), None, num_steps=12, throw=False))(
        jnp.array([[10.0], [0.9]])
    )
    np.testing.assert_array_equal(batch.num_steps, [8, 12])
    np.testing.assert_allclose(batch.info[1, :, 0], np.log(2.0) + 2.0 ** np.arange(12) * np.log(0.9), rtol=1e-12)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_numbers_of_directions_that_do_not_fit_are_refused(number):
    with pytest.raises(ValueError, match=f"(between 1 and the dimension 2|at least 0), got {number}"):
        init_frame((jnp.ones(2), jnp.array(1)), number)
