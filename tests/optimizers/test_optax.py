"""The adapter: what becomes a leaf, what it passes on, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

from ..helpers import Quadratic, unroll


def test_floats_are_leaves_and_everything_else_is_static():
    optimizer = nx.optimizers.Optax(optax.sgd, learning_rate=0.1, momentum=np.float32(0.9), nesterov=True)
    assert set(optimizer.hyperparameters) == {"learning_rate", "momentum"}
    assert optimizer.static_arguments == (("nesterov", True),)
    assert len(jax.tree.leaves(optimizer)) == 2


@pytest.mark.usefixtures("unchecked")
def test_a_transformation_instead_of_a_factory_is_refused():
    with pytest.raises(ValueError, match="Write `Optax"):
        nx.optimizers.Optax(optax.adam(1e-3))  # pyright: ignore[reportArgumentType]


def test_the_first_steps_of_the_presets_by_hand(key):
    # One coordinate, x = 2, h = 1, so g = 2. Momentum-like methods are separated by their second step.
    lr = 0.1
    x0, g0 = 2.0, 2.0

    def second_momentum(first):
        x1 = x0 - lr * first
        return x1, x1

    x1, g1 = second_momentum(g0)
    expected = {
        "sgd": x1 - lr * g1,
        "momentum": x1 - lr * (0.9 * g0 + g1),
    }
    n1, m1 = second_momentum(g0 + 0.9 * g0)
    expected["nesterov"] = n1 - lr * (m1 + 0.9 * (0.9 * g0 + m1))
    a1 = x0 - lr * g0 / (np.sqrt(g0**2) + 1e-8)
    m, v = 0.9 * 0.1 * g0 + 0.1 * a1, 0.999 * 0.001 * g0**2 + 0.001 * a1**2
    expected["adam"] = a1 - lr * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)
    r1 = x0 - lr * g0 / np.sqrt(0.1 * g0**2 + 1e-8)
    expected["rmsprop"] = r1 - lr * r1 / np.sqrt(0.9 * 0.1 * g0**2 + 0.1 * r1**2 + 1e-8)
    d1 = x0 - lr * g0 / np.sqrt(0.1 + g0**2 + 1e-7)
    expected["adagrad"] = d1 - lr * d1 / np.sqrt(0.1 + g0**2 + d1**2 + 1e-7)
    problem = Quadratic(jnp.array([1.0]), start=jnp.array([2.0]))
    for name, value in expected.items():
        out = unroll(problem, getattr(nx.optimizers, name)(lr), 2, key)
        np.testing.assert_allclose(out.carry[0][0], [value], rtol=1e-12, err_msg=name)


def test_line_searches_get_the_value_and_its_function(key):
    """L-BFGS with its line search needs both; on a quadratic in 3 variables it is done in a few steps."""
    problem = Quadratic(jnp.array([1.0, 10.0, 100.0]))
    out = unroll(problem, nx.optimizers.Optax(optax.lbfgs), 12, key)
    assert jnp.linalg.norm(out.carry[0][0]) < 1e-6
