"""Weights that differ from example to example by gates on a layer's outputs, and linear maps by them."""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class OutputAxis:
    """The axis of a weight along which a layer's outputs lie, and how many leading axes stack several layers."""

    output: int = -1
    stacked: int = 0


class Gated(eqx.Module):
    r"""A weight with one value per example, $W_i = W + \operatorname{diag}(g_i) R$, which need not be formed.

    A linear map by $W_i$ is a map by $W$ plus $g_i$ times a map by $R$: two products for all examples. Networks take a
    `Gated` in the place of a weight where they compute by `nestax.networks.affine`, `convolve` and their like.

    - `weight`, `response`: $W$ and $R$, of one shape. A vector, such as a bias, has outputs only.
    - `gate`: the $g_i$, of shape `(examples, outputs)`, after the axes that stack layers; within one example without
      its axis.
    - `output`: the axis of `weight` along which its outputs lie: the last, or in Equinox's layers the first.
    """

    weight: Float[Array, "..."]
    response: Float[Array, "..."]
    gate: Float[Array, "..."]
    output: int = eqx.field(static=True, default=-1)

    def form(self, index: int) -> Float[Array, "..."]:
        """The weight of one example."""
        return form(self.weight, self.response, self.gate[..., index, :], self.output)


def form(
    weight: Float[Array, "..."], response: Float[Array, "..."], gate: Float[Array, "... outputs"], output: int = -1
) -> Float[Array, "..."]:
    r"""$W + \operatorname{diag}(g) R$ for one gate of shape `(*stack, outputs)`."""
    ones = (1,) * (weight.ndim - gate.ndim)
    shape = (*gate.shape[:-1], *ones, gate.shape[-1]) if output == -1 else (*gate.shape, *ones)
    return weight + gate.reshape(shape) * response


def is_gated(x: object) -> bool:
    """True for a `Gated`."""
    return isinstance(x, Gated)


def of_example(weights: PyTree, index: int) -> PyTree:
    """The weights of one example, formed."""
    return jax.tree.map(lambda w: w.form(index) if is_gated(w) else w, weights, is_leaf=is_gated)


def parts(function: Callable[[PyTree], PyTree], weights: PyTree) -> PyTree:
    """A linear function of weights that keeps their structure, of all elementary weights and of all responses."""
    elementary = function(jax.tree.map(lambda w: w.weight if is_gated(w) else w, weights, is_leaf=is_gated))
    if not any(map(is_gated, jax.tree.leaves(weights, is_leaf=is_gated))):
        return elementary
    response = function(jax.tree.map(lambda w: w.response if is_gated(w) else w, weights, is_leaf=is_gated))

    def join(before, weight, response):
        return Gated(weight, response, before.gate, before.output) if is_gated(before) else weight

    return jax.tree.map(join, weights, elementary, response, is_leaf=is_gated)


def linear(product: Callable[[Array], Array], weight: Array | Gated) -> Array:
    """`product(weight)`, for a product that is linear in the weight, with examples on the first axis of its result and
    outputs on the last.
    """
    if not isinstance(weight, Gated):
        return product(weight)
    out = product(weight.weight)
    return out + _spread(weight.gate, out.ndim) * product(weight.response)


def vector(values: Array | Gated, ndim: int) -> Array:
    """A bias or a scale of a layer's outputs, with as many axes as the outputs have."""
    if not isinstance(values, Gated):
        return values.reshape((1,) * (ndim - 1) + values.shape)
    return _spread(values.weight[None, :] + values.gate * values.response[None, :], ndim)


def _spread(gate: Float[Array, "examples outputs"], ndim: int) -> Array:
    return gate.reshape(gate.shape[0], *(1,) * (ndim - 2), gate.shape[1])


def num_outputs(weight: Float[Array, "..."], axis: OutputAxis) -> tuple[tuple[int, ...], int, int]:
    """Of a weight: the shape of its stack of layers, the number of their outputs, and of inputs of each."""
    inner = weight.shape[axis.stacked :]
    return weight.shape[: axis.stacked], inner[axis.output], math.prod(inner) // inner[axis.output]


def last_axes(weights: PyTree) -> PyTree:
    """Every leaf of `weights` as a layer whose outputs lie on its last axis; a scalar has none."""
    return jax.tree.map(lambda w: OutputAxis() if jnp.ndim(w) else None, weights)
