"""Meta-losses: what a learned optimizer is trained to make small, as a function of the losses of one unroll."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import named, nonnegative


class AbstractMetaLoss(eqx.Module):
    r"""Maps the losses $f(\theta_0), \dots, f(\theta_L)$ of an unroll of $L$ steps to one number."""

    @abc.abstractmethod
    def __call__(self, losses: Float[Array, " length"]) -> Float[Array, ""]:
        """`losses` has length $L + 1$: before each step, and after the last one."""


def _weighted_sum(values: Float[Array, " length"], weights: Float[Array, " length"] | None) -> Float[Array, ""]:
    if weights is None:
        return jnp.sum(values)
    if weights.shape != values.shape:
        raise ValueError(
            f"`weights` has shape {weights.shape}, but an unroll of {values.size - 1} steps has {values.size} losses: "
            "one before each step, and one after the last."
        )
    return jnp.sum(weights.astype(values.dtype) * values)


class Sum(AbstractMetaLoss):
    r"""$\sum_{t=0}^{L} w_t f(\theta_t)$ with $w_t = 1$ by default (Andrychowicz et al., 2016, eq. 3)."""

    weights: Float[Array, " length"] | None = None

    def __call__(self, losses: Float[Array, " length"]) -> Float[Array, ""]:
        return _weighted_sum(losses, self.weights)


class Last(AbstractMetaLoss):
    r"""$f(\theta_L)$: only the end counts (Lv et al., 2017)."""

    def __call__(self, losses: Float[Array, " length"]) -> Float[Array, ""]:
        return losses[-1]


class SumLog(AbstractMetaLoss):
    r"""$\sum_{t=0}^{L} w_t \ln(f(\theta_t) + \epsilon)$: progress counts alike at every order of magnitude.

    For losses that are never negative. `eps` is in units of the loss and bounds the reward of small losses; the default
    1e-6 is about what float32 resolves next to 1. (Wichrowska et al., 2017, section 4.1, without their division by the
    initial loss, which is a constant.)
    """

    eps: Float[Array, ""] = eqx.field(converter=named(nonnegative, "eps"), default=1e-6)
    weights: Float[Array, " length"] | None = None

    def __call__(self, losses: Float[Array, " length"]) -> Float[Array, ""]:
        return _weighted_sum(jnp.log(losses + self.eps.astype(losses.dtype)), self.weights)


class MeanLog(AbstractMetaLoss):
    r"""$\frac{1}{L + 1} \sum_{t=0}^{L} \ln(f(\theta_t) + \epsilon)$: as `SumLog`, but truncations of all lengths count
    alike.

    `eps`: default 1e-6. (Wichrowska et al., 2017, section 4.1, with losses divided by the first one: `RelativeLoss`.)
    """

    eps: Float[Array, ""] = eqx.field(converter=named(nonnegative, "eps"), default=1e-6)

    def __call__(self, losses: Float[Array, " length"]) -> Float[Array, ""]:
        return jnp.mean(jnp.log(losses + self.eps.astype(losses.dtype)))
