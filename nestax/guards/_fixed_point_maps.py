"""Fallbacks of the residual guard: averaged maps, of which the fixed points are the solutions."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._checks import nonnegative

Rate = float | Float[Array, ""] | Callable[[Int[Array, ""]], Float[Array, ""]]


class AbstractFixedPointMap(eqx.Module):
    """A map $T$ made from the gradient of the smooth part of the loss, and a learning rate that may decay."""

    learning_rate: eqx.AbstractVar[Float[Array, ""] | Callable[[Int[Array, ""]], Float[Array, ""]]]

    @abc.abstractmethod
    def apply(self, params: PyTree, gradients: PyTree, learning_rate: Float[Array, ""]) -> PyTree:
        """$T(x)$ with this learning rate."""

    def rate(self, count: int | Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate at a step count."""
        rate = self.learning_rate
        return rate(jnp.asarray(count)) if callable(rate) else rate


def _as_rate(learning_rate: Rate) -> Float[Array, ""] | Callable[[Int[Array, ""]], Float[Array, ""]]:
    return learning_rate if callable(learning_rate) else nonnegative(learning_rate, "learning_rate")


def _descend(params: PyTree, gradients: PyTree, learning_rate: Float[Array, ""]) -> PyTree:
    return jax.tree.map(lambda p, g: p - learning_rate.astype(p.dtype) * g, params, gradients)


class GradientDescentMap(AbstractFixedPointMap):
    r"""$T(x) = x - \eta \nabla f(x)$: averaged for convex $f$ with $L$-Lipschitz gradient and $\eta < 2/L$.

    **Arguments:** `learning_rate`: $\eta$, or a schedule of the step count such as `nestax.optimizers.PowerDecay`.
    """

    learning_rate: Float[Array, ""] | Callable[[Int[Array, ""]], Float[Array, ""]]

    def __init__(self, learning_rate: Rate):
        self.learning_rate = _as_rate(learning_rate)

    def apply(self, params, gradients, learning_rate):
        return _descend(params, gradients, learning_rate)


class ProximalGradientMap(AbstractFixedPointMap):
    r"""$T(x) = \operatorname{prox}_{\eta g}(x - \eta \nabla f(x))$, for $f + g$ with $f$ smooth and $g$ simple.

    The problem's loss is the smooth part $f$; $g$ is known through its proximal operator alone.

    **Arguments:**

    - `learning_rate`: $\eta$, or a schedule of the step count.
    - `prox`: `prox(params, learning_rate)`, the minimizer of $g(u) + \lVert u - x \rVert^2 / 2\eta$ over $u$; with
      $\lambda\lVert x\rVert_1$ this is soft thresholding at $\lambda \eta$. A module-level function, or an
      `equinox.Module` whose leaves are its parameters.
    """

    learning_rate: Float[Array, ""] | Callable[[Int[Array, ""]], Float[Array, ""]]
    prox: Callable[[PyTree, Float[Array, ""]], PyTree]

    def __init__(self, learning_rate: Rate, prox: Callable[[PyTree, Float[Array, ""]], PyTree]):
        self.learning_rate = _as_rate(learning_rate)
        self.prox = prox

    def apply(self, params, gradients, learning_rate):
        return self.prox(_descend(params, gradients, learning_rate), learning_rate)
