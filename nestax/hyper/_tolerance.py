"""Tolerances that shrink from one outer step to the next."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Int

from .._checks import fraction, named, positive


class AbstractTolerance(eqx.Module):
    r"""A tolerance $\varepsilon_k$ for outer step $k$, with $\sum_k \varepsilon_k < \infty$: then inexact
    hypergradients lead to a stationary point (Pedregosa, 2016, HOAG, Theorem 2).
    """

    @abc.abstractmethod
    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        r"""$\varepsilon_k$ for $k$ = `count`, from 0."""


class ExponentialTolerance(AbstractTolerance):
    r"""$\varepsilon_k = \varepsilon_0 \gamma^k$.

    **Arguments:** `initial`: $\varepsilon_0$, default 0.1; `decay`: $\gamma$, default 0.9, as published.
    """

    initial: Float[Array, ""] = eqx.field(converter=named(positive, "initial"), default=0.1)
    decay: Float[Array, ""] = eqx.field(converter=named(fraction, "decay"), default=0.9)

    def __call__(self, count):
        return self.initial * self.decay ** count.astype(self.decay.dtype)


class QuadraticTolerance(AbstractTolerance):
    r"""$\varepsilon_k = \varepsilon_0 / (k + 1)^2$.

    **Arguments:** `initial`: $\varepsilon_0$, default 0.1.
    """

    initial: Float[Array, ""] = eqx.field(converter=named(positive, "initial"), default=0.1)

    def __call__(self, count):
        return self.initial / (count.astype(self.initial.dtype) + 1) ** 2
