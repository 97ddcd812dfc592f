"""Hypergradients through learned optimizers."""

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax import hyper

from ..helpers import central_difference
from .problems import ridge


def test_unrolled_through_a_learned_optimizer():
    """By default it holds gradients constant, for the meta-gradient; the weights depend on hyperparameters by them."""
    problem = ridge()
    hyperparameters, weights = problem.init(jax.random.key(1))
    method = hyper.Unrolled(nx.learned.L2ODM((2,), scale=0.5, key=jax.random.key(0)), 2)
    direction = jnp.ones_like(hyperparameters)

    def value(t):
        return hyper.hypergradient(problem, (hyperparameters + t * direction, weights), None, method).value

    gradient = hyper.hypergradient(problem, (hyperparameters, weights), None, method).gradient
    np.testing.assert_allclose(gradient @ direction, central_difference(value, 0.0, step=1e-5), rtol=1e-6)
