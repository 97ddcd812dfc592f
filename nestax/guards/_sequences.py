"""How the threshold of a residual guard falls: the five sequences of Safe-L2O."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._candidates import check_positive


def _check_theta(theta: float | Float[Array, ""]) -> Float[Array, ""]:
    if isinstance(theta, int | float) and not 0 < theta < 1:
        raise ValueError(f"`theta` must be between 0 and 1, exclusive, got {theta}.")
    return jnp.asarray(theta, float)


class AbstractSequence(eqx.Module):
    r"""The thresholds $\mu_k$ of a `ResidualGuard`. They change only where the guarded proposal is accepted.

    Convergence needs that $\mu_k \to 0$ if proposals are accepted infinitely often. With $R \le \alpha \mu_k$, which an
    accepted residual satisfies, every sequence here has that property.
    """

    @abc.abstractmethod
    def init(self, threshold: Float[Array, ""]) -> PyTree:
        """The state, given $\\mu_1$."""

    @abc.abstractmethod
    def accept(
        self, threshold: Float[Array, ""], state: PyTree, residual: Float[Array, ""]
    ) -> tuple[Float[Array, ""], PyTree]:
        """The next threshold after an accepted proposal with this residual, and the next state."""


class GeometricSequence(AbstractSequence):
    r"""GS($\theta$): $\mu_{k+1} = \theta \mu_k$. Default $\theta = 0.9$."""

    theta: Float[Array, ""]

    def __init__(self, theta: float | Float[Array, ""] = 0.9):
        self.theta = _check_theta(theta)

    def init(self, threshold):
        return None

    def accept(self, threshold, state, residual):
        return self.theta.astype(threshold.dtype) * threshold, state


class RecentTerm(AbstractSequence):
    r"""RT: $\mu_{k+1} = R$, the accepted residual."""

    def init(self, threshold):
        return None

    def accept(self, threshold, state, residual):
        return residual, state


class ArithmeticAverage(AbstractSequence):
    r"""AA: $\mu_{k+1} = (R + m_k \mu_k) / (m_k + 1)$, with $m_k$ the number of acceptances before this one."""

    def init(self, threshold):
        return jnp.array(0)

    def accept(self, threshold, state, residual):
        count = state.astype(threshold.dtype)
        return (residual + count * threshold) / (count + 1), state + 1


class ExponentialMovingAverage(AbstractSequence):
    r"""EMA($\theta$): $\mu_{k+1} = \theta R + (1 - \theta) \mu_k$. Default $\theta = 0.25$."""

    theta: Float[Array, ""]

    def __init__(self, theta: float | Float[Array, ""] = 0.25):
        self.theta = _check_theta(theta)

    def init(self, threshold):
        return None

    def accept(self, threshold, state, residual):
        theta = self.theta.astype(threshold.dtype)
        return theta * residual + (1 - theta) * threshold, state


class RecentMax(AbstractSequence):
    r"""RM($m$): $\mu_{k+1}$ is the largest residual of the $m$ latest acceptances. Default $m = 10$.

    Before $m$ acceptances the missing ones count as $\mu_1$.
    """

    num: int = eqx.field(static=True)

    def __init__(self, num: int = 10):
        check_positive(num=num)
        self.num = num

    def init(self, threshold):
        return jnp.full((self.num,), threshold)

    def accept(self, threshold, state, residual):
        recent = jnp.concatenate([state[1:], residual[None]])
        return recent.max(), recent
