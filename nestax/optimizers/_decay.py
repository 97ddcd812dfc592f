"""A learning rate that decays as a power of time, and gradient descent with it."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import nonnegative, positive
from .._optax import Optax


class PowerDecay(eqx.Module):
    r"""The schedule $\eta_t = \eta_0 (1 + t / \tau)^{-q}$, a function of the step count $t$; also an Optax schedule.

    Stochastic gradient descent converges for strongly convex losses if $\tfrac12 < q \le 1$ (Robbins and Monro, 1951).

    **Arguments:**

    - `learning_rate`: $\eta_0$.
    - `time_scale`: $\tau$, in steps: after so many steps the rate has fallen to $2^{-q}$ of its start.
    - `power`: $q$. Default 0.75. Premont-Schwarz et al. (2022) name a power of 1.5 that "must be strictly between 0 and
      2"; the formula is not printed. Read literally, $q = 1.5$ has a finite sum of rates, and the method may stop short
      of the minimum; half the printed power is the value with which their convergence proposition holds. Both differ by
      7% at $t = \tau / 10$.
    """

    learning_rate: Float[Array, ""]
    time_scale: Float[Array, ""]
    power: Float[Array, ""]

    def __init__(self, learning_rate: ArrayLike, time_scale: ArrayLike, power: ArrayLike = 0.75):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.time_scale = positive(time_scale, "time_scale")
        self.power = nonnegative(power, "power")

    def __call__(self, count: ArrayLike) -> Float[Array, ""]:
        dtype = self.learning_rate.dtype
        time = 1 + jnp.asarray(count, dtype) / self.time_scale.astype(dtype)
        return self.learning_rate * time ** -self.power.astype(dtype)


def _decaying_sgd(learning_rate, time_scale, power):
    return optax.sgd(PowerDecay(learning_rate, time_scale, power))


def decaying_sgd(learning_rate: ArrayLike, time_scale: ArrayLike = 50_000.0, power: ArrayLike = 0.75) -> Optax:
    r"""Gradient descent without momentum, with the rate $\eta_0 (1 + t / \tau)^{-q}$ of `PowerDecay`.

    The fallback of guarded learned optimizers in Premont-Schwarz et al. (2022), with their $\tau = 50{,}000$ steps as
    the default. They took $\eta_0 = 3$, for small networks; that is far too large for most others.
    """
    return Optax(
        _decaying_sgd,
        learning_rate=nonnegative(learning_rate, "learning_rate"),
        time_scale=positive(time_scale, "time_scale"),
        power=nonnegative(power, "power"),
    )
