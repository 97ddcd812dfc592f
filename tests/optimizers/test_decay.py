"""The decaying learning rate, and gradient descent with it."""

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx

from ..helpers import Quadratic


def test_the_schedule_is_its_formula():
    decay = nx.optimizers.PowerDecay(3.0, 50_000.0)
    steps = np.array([0, 1, 5_000, 50_000, 1_000_000])
    rates = jax.vmap(decay)(jnp.asarray(steps))
    np.testing.assert_allclose(rates, 3.0 * (1 + steps / 50_000) ** -0.75, rtol=1e-12)
    printed = nx.optimizers.PowerDecay(3.0, 50_000.0, 1.5)
    np.testing.assert_allclose(1 - float(printed(5_000)) / float(decay(5_000)), 0.07, atol=0.002)


def test_gradient_descent_with_it_is_its_product():
    optimizer = nx.optimizers.decaying_sgd(0.5, 2.0, 1.0)
    solution = nx.solve(Quadratic(jnp.array([1.0])), optimizer, num_steps=5, key=jax.random.key(0))
    np.testing.assert_allclose(solution.players[0], np.prod([1 - 0.5 / (1 + t / 2) for t in range(5)]), rtol=1e-12)


def test_all_three_numbers_are_leaves():
    def final(learning_rate, time_scale, power):
        optimizer = nx.optimizers.decaying_sgd(learning_rate, time_scale, power)
        return nx.solve(
            Quadratic(jnp.array([1.0])), optimizer, num_steps=3, key=jax.random.key(0), throw=False
        ).players[0][0]

    gradients = jax.jit(jax.grad(final, argnums=(0, 1, 2)))(jnp.array(0.5), jnp.array(2.0), jnp.array(1.0))
    assert all(np.isfinite(g) and g != 0 for g in gradients)
