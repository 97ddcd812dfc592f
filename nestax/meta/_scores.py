"""Scores by which `Validation` judges a learned optimizer of games."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._games import GradientNorm, distances
from ._unroll import Unroll


class AbstractScore(eqx.Module):
    """A number that is small for a good optimizer, from the runs of a validation."""

    @abc.abstractmethod
    def keep(self, unroll: Unroll) -> PyTree[Array]:
        """What counts of one run."""

    @abc.abstractmethod
    def total(self, kept: PyTree[Array]) -> Float[Array, ""]:
        """The score, from what was kept of all runs, stacked on a leading axis. A non-finite score never wins."""


def _joint_distances(unroll: Unroll) -> Float[Array, " length"]:
    """The distance of the pair of players to the solutions at every point; infinite where it is not finite."""
    squares = jax.vmap(lambda p: jnp.sum(jnp.stack(distances(unroll.problem, p)) ** 2))(unroll.players)
    return jnp.sqrt(jnp.where(jnp.isfinite(squares), squares, jnp.inf))


class TailDistance(AbstractScore):
    r"""The mean over runs of the sum of squared distances to the solutions over the last part of the run.

    The rule of the released code of Shen et al. (ICLR 2021), there over the second half.

    **Arguments:** `part`: the last share of the run that counts; default 0.5.
    """

    part: float = eqx.field(static=True, default=0.5)

    def keep(self, unroll: Unroll) -> Float[Array, ""]:
        values = _joint_distances(unroll)
        return jnp.sum(values[round((1 - self.part) * (values.size - 1)) + 1 :] ** 2)

    def total(self, kept: Float[Array, " runs"]) -> Float[Array, ""]:
        return jnp.mean(kept)


class SuccessRate(AbstractScore):
    r"""Minus the sum of two success rates: the shares of runs that are near a solution, and at rest, at their end.

    Over the last `part` of a run, near: the mean distance is below `accuracy`; at rest: its standard deviation is below
    `steadiness`. Ties are broken by the mean over runs and steps of $\ln \max(D_t, \mathrm{steadiness})$, so the faster
    optimizer wins among those that always succeed.

    **Arguments:** `accuracy` 2e-2, `steadiness` 1e-4, `part` 0.2: the defaults are those of Shen et al. (ICLR 2021).
    """

    accuracy: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=2e-2)
    steadiness: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-4)
    part: float = eqx.field(static=True, default=0.2)

    def keep(self, unroll: Unroll) -> dict[str, Array]:
        values = _joint_distances(unroll)
        tail = values[round((1 - self.part) * (values.size - 1)) :]
        failed = ~jnp.all(jnp.isfinite(tail))
        tail = jnp.where(failed, jnp.zeros_like(tail), tail)
        floor = self.steadiness.astype(values.dtype)
        return {
            "near": ~failed & (jnp.mean(tail) < self.accuracy.astype(tail.dtype)),
            "at_rest": ~failed & (jnp.std(tail) < floor),
            "speed": jnp.mean(jnp.log(jnp.clip(values, floor, jnp.full_like(floor, 1e3)))),
        }

    def total(self, kept: dict[str, Array]) -> Float[Array, ""]:
        speed = kept["speed"]
        num = kept["near"].size
        successes = jnp.sum(kept["near"].astype(speed.dtype)) + jnp.sum(kept["at_rest"].astype(speed.dtype))
        return (-successes + jnp.mean(speed) / 20) / num  # |speed| < 10: never as much as one success


class GradientsToTolerance(AbstractScore):
    r"""The mean over runs of the logarithm of the number of steps until $\lVert G \rVert$ has fallen to a share of its
    first value, and stays counted as the whole run plus what is missing where it does not.

    $\ln \min\{t : \lVert G_t \rVert \le \epsilon \lVert G_0 \rVert\}$; a run that does not get there counts
    $\ln T + \ln(\min_t \lVert G_t \rVert / (\epsilon \lVert G_0 \rVert))$.

    **Arguments:** `tolerance`: $\epsilon$, default 1e-4.
    """

    tolerance: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-4)

    def keep(self, unroll: Unroll) -> Float[Array, ""]:
        measure = GradientNorm()
        squares = jax.vmap(lambda p, s: measure(unroll.problem, p, s))(unroll.players, unroll.samples)
        sizes = jnp.sqrt(jnp.where(jnp.isfinite(squares), squares, jnp.inf))
        goal = self.tolerance.astype(sizes.dtype) * sizes[0]
        reached = sizes <= goal
        steps = jnp.where(jnp.any(reached), jnp.argmax(reached), sizes.size - 1).astype(sizes.dtype)
        missing = jnp.log(jnp.maximum(jnp.min(sizes) / goal, jnp.ones_like(goal)))
        return jnp.log(jnp.maximum(steps, 1)) + missing

    def total(self, kept: Float[Array, " runs"]) -> Float[Array, ""]:
        return jnp.mean(kept)
