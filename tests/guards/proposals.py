"""Optimizers to be guarded: good, useless, hostile and broken ones."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import nestax as nx


class Newton(nx.AbstractGradientOptimizer):
    """One step to the minimum of a quadratic: always accepted, if there is anything to gain."""

    hessian: Float[Array, "dim dim"]

    def init_update(self, params):
        return ()

    def update(self, gradients, state, params, **extra: Any):
        return jax.tree.map(lambda g: -jnp.linalg.solve(self.hessian, g), gradients), state


class Shout(nx.AbstractGradientOptimizer):
    """Adds a million times Gaussian noise."""

    scale: float = 1e6

    def init_update(self, params):
        return jax.random.key(0)

    def update(self, gradients, state, params, **extra: Any):
        state, key = jax.random.split(state)
        return jax.tree.map(lambda g: self.scale * jax.random.normal(key, g.shape, g.dtype), gradients), state


class Break(nx.AbstractGradientOptimizer):
    """Proposes NaN, and has a state that becomes NaN as well."""

    def init_update(self, params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, gradients, state, params, **extra: Any):
        bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), gradients)
        return bad, bad


class Stay(nx.AbstractGradientOptimizer):
    """Does not move, and counts how many gradients it has read."""

    def init_update(self, params):
        return jnp.array(0)

    def update(self, gradients, state, params, **extra: Any):
        return jax.tree.map(jnp.zeros_like, gradients), state + 1


@functools.cache
def untrained():
    """A learned optimizer before training, with a scale that makes its steps matter."""
    return nx.learned.L2ODM((4,), scale=0.3, key=jax.random.key(3))


def proposals(problem):
    return {"lstm": untrained(), "noise": Shout(), "nan": Break(), "newton": Newton(problem.hessian)}


NAMES = ("lstm", "noise", "nan", "newton")
