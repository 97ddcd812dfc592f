"""Meta-objectives: what a learned optimizer is trained to make small, as a function of a whole trajectory."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import named, nonnegative
from .._problem import Players, Sample, check_zero_sum
from ..measures import AbstractMeasure, Trajectory


class AbstractMetaObjective(eqx.Module):
    """Maps a `nestax.measures.Trajectory` to one number, which meta-training makes small."""

    @abc.abstractmethod
    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        """Differentiated with respect to the players in `trajectory`, which depend on the meta-parameters."""


def _squared_norm(tree: PyTree) -> Float[Array, ""]:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))  # pyright: ignore[reportReturnType]


class ObjectiveReward(AbstractMetaObjective):
    r"""The objective-based reward: each move is paid by how much it changed the payoff.

    $$\sum_{t=1}^{T} [f(x_t, y_{t-1}) - f(x_t, y_t)] + [f(x_t, y_{t-1}) - f(x_{t-1}, y_{t-1})]$$

    **Warning:** taken literally this is unbounded below: through $f(x_t, y_{t-1})$ each player also profits from the
    other one's large swings, and training learns to swing. With `own_variable` every $f$ is differentiated with respect
    to the variable that has just moved, and no other.

    **Arguments:**

    - `own_variable`: as above. Default true; false is the literal form. Both have the same value.
    - `skip_last`: leave out the first bracket of the last step, as the released code does, which updates the weights
      before that reward is added. The moves $x_1, \dots, x_T$ then count 2, ..., 2, 1 times, and $y_1, \dots, y_T$ 2,
      ..., 2, 0 times (else 2, ..., 2, 2 and 2, ..., 2, 1). Default false.

    **Source:** Shen et al. (ICLR 2021), eq. 4.
    """

    own_variable: bool = eqx.field(static=True, default=True)
    skip_last: bool = eqx.field(static=True, default=False)

    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        payoff = check_zero_sum(trajectory.problem, "ObjectiveReward").payoff
        (x_old, y_old), (x, y) = _before(trajectory.players), _after(trajectory.players)
        samples = jax.tree.map(lambda s: s[:-1], trajectory.samples)
        hold = jax.lax.stop_gradient if self.own_variable else lambda tree: tree

        def values(first, second):
            return jax.vmap(lambda p, s: payoff(p, s))((first, second), samples)

        start, middle, end = values(hold(x_old), y_old), values(x, hold(y_old)), values(hold(x), y)
        second_player = (middle - end)[: middle.size - 1 if self.skip_last else None]
        return jnp.sum(second_player) + jnp.sum(middle - start)


class NikaidoIsoda(AbstractMetaObjective):
    r"""The Nikaido-Isoda-like reward: squared slopes of the payoff along each player's last move.

    $$\sum_{t=1}^{T} \frac{(f(x_t, y_{t-1}) - f(x_t, y_t))^2}{\lVert y_t - y_{t-1} \rVert^2 + \epsilon}
    + \frac{(f(x_{t-1}, y_{t-1}) - f(x_t, y_t))^2}{\lVert x_t - x_{t-1} \rVert^2 + \epsilon}$$

    **Arguments:** `eps`: $\epsilon$, in squared units of the players. Default 1e-12. Without it, moves that become
    small make it explode, as the source reports.

    **Source:** Shen et al. (ICLR 2021), eq. 39, as printed: the second numerator has $f(x_t, y_t)$ where a change of
    $x$ alone would have $f(x_t, y_{t-1})$.
    """

    eps: Float[Array, ""] = eqx.field(converter=named(nonnegative, "eps"), default=1e-12)

    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        payoff = check_zero_sum(trajectory.problem, "NikaidoIsoda").payoff
        samples = jax.tree.map(lambda s: s[:-1], trajectory.samples)

        def one(old: Players, new: Players, sample: Sample):
            (x_old, y_old), (x, y) = old, new
            start, middle, end = payoff(old, sample), payoff((x, y_old), sample), payoff(new, sample)
            eps = self.eps.astype(end.dtype)
            dx = _squared_norm(jax.tree.map(jnp.subtract, x, x_old)) + eps
            dy = _squared_norm(jax.tree.map(jnp.subtract, y, y_old)) + eps
            return (middle - end) ** 2 / dy + (start - end) ** 2 / dx

        return jnp.sum(jax.vmap(one)(_before(trajectory.players), _after(trajectory.players), samples))


class TrajectorySum(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} m(x_t, y_t)$ of a measure $m$ after every step."""

    measure: AbstractMeasure

    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        return jnp.sum(trajectory.values(self.measure)[1:])


class Relative(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} m(x_t, y_t) / (m(x_0, y_0) + \epsilon)$ with the denominator held constant.

    Instances and stages of a run count alike, whatever their scale. `Relative(SquaredGradientNorm())` is what
    `TwinLSTM` is trained on by default.

    **Arguments:** `measure`: $m$. `eps`: $\epsilon$, in units of the measure; default 1e-12.
    """

    measure: AbstractMeasure
    eps: Float[Array, ""] = eqx.field(converter=named(nonnegative, "eps"), default=1e-12)

    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        values = trajectory.values(self.measure)
        return jnp.sum(values[1:]) / (jax.lax.stop_gradient(values[0]) + self.eps.astype(values.dtype))


class RelativeLog(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} \ln \max(m(x_t, y_t) / m(x_0, y_0), \epsilon)$ with the denominator held constant.

    Every factor counts alike, down to $\epsilon$, below which nothing is gained.

    **Arguments:** `measure`: $m$. `floor`: $\epsilon$, default 1e-10: for a squared norm that is 1e-5 of the norm.
    """

    measure: AbstractMeasure
    floor: Float[Array, ""] = eqx.field(converter=named(nonnegative, "floor"), default=1e-10)

    def __call__(self, trajectory: Trajectory) -> Float[Array, ""]:
        values = trajectory.values(self.measure)
        tiny = jnp.finfo(values.dtype).tiny
        first = jnp.maximum(jax.lax.stop_gradient(values[0]), tiny)
        return jnp.sum(jnp.log(jnp.maximum(values[1:] / first, self.floor.astype(values.dtype))))


def _before(players: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[:-1], players)


def _after(players: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[1:], players)
