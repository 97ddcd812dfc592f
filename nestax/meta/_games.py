"""What a learned optimizer of games may be trained to make small."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._gradients import joint_gradient
from .._problem import AbstractProblem, Players, Sample, check_zero_sum
from ._unroll import AbstractMetaObjective, Unroll


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

    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        payoff = check_zero_sum(unroll.problem, "ObjectiveReward").payoff
        (x_old, y_old), (x, y) = _before(unroll.players), _after(unroll.players)
        samples = jax.tree.map(lambda s: s[:-1], unroll.samples)
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

    eps: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-12)

    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        payoff = check_zero_sum(unroll.problem, "NikaidoIsoda").payoff
        samples = jax.tree.map(lambda s: s[:-1], unroll.samples)

        def one(old: Players, new: Players, sample: Sample):
            (x_old, y_old), (x, y) = old, new
            start, middle, end = payoff(old, sample), payoff((x, y_old), sample), payoff(new, sample)
            eps = self.eps.astype(end.dtype)
            dx = _squared_norm(jax.tree.map(jnp.subtract, x, x_old)) + eps
            dy = _squared_norm(jax.tree.map(jnp.subtract, y, y_old)) + eps
            return (middle - end) ** 2 / dy + (start - end) ** 2 / dx

        return jnp.sum(jax.vmap(one)(_before(unroll.players), _after(unroll.players), samples))


class AbstractMeasure(eqx.Module):
    """A number at one point that is small near a solution: what `Along` and `Relative` sum over an unroll."""

    @abc.abstractmethod
    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        """The measure at `players`."""


class GradientNorm(AbstractMeasure):
    r"""$\lVert \nabla_x f \rVert^2 + \lVert \nabla_y f \rVert^2$, or with `player` that player's part alone.

    For any number of players: every player's own gradient. `Along(GradientNorm())` is the gradient-based reward, eq. 38
    of Shen et al. (ICLR 2021).
    """

    player: int | None = eqx.field(static=True, default=None)

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        _, field = joint_gradient(problem, players, sample)
        return _squared_norm(field if self.player is None else field[self.player])


class Hamiltonian(AbstractMeasure):
    r"""$\tfrac12 \lVert F \rVert^2$ with the joint gradient $F$: what a Hamiltonian descent makes small."""

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        _, field = joint_gradient(problem, players, sample)
        return 0.5 * _squared_norm(field)


class Gap(AbstractMeasure):
    r"""What either player could gain by a move of at most `delta` along its own gradient, by trying:
    $\max_k f(x, y + o_k v) - \min_k f(x + o_k u, y)$.

    $o_k$ are `num_offsets` evenly spaced numbers from `-delta` to `delta`, and $u, v$ the unit vectors along the
    gradients (held constant). With one coordinate per player that is all of a neighbourhood. It uses values of the
    payoff only, and has no minimum where a gradient vanishes for want of interaction. Zero-sum games.

    **Arguments:** `delta`: in units of the players; default 0.5. `num_offsets`: odd, so that standing still is among
    them and the gap is not negative; default 17.
    """

    delta: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.5)
    num_offsets: int = eqx.field(static=True, default=17)

    def __check_init__(self):
        if self.num_offsets < 3 or self.num_offsets % 2 == 0:
            raise ValueError(f"`Gap(num_offsets=...)` must be an odd number from 3 on, got {self.num_offsets}.")

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        payoff = check_zero_sum(problem, "Gap").payoff
        _, field = joint_gradient(problem, players, sample)
        (x, y), (u, v) = players, (_unit(g) for g in field)
        dtype = jax.tree.leaves(players)[0].dtype
        offsets = self.delta.astype(dtype) * jnp.linspace(-1, 1, self.num_offsets, dtype=dtype)
        best = jnp.max(jax.vmap(lambda o: payoff((x, _along(y, o, v)), sample))(offsets))
        return best - jnp.min(jax.vmap(lambda o: payoff((_along(x, o, u), y), sample))(offsets))


def _unit(tree: PyTree) -> PyTree:
    """`tree` at length 1, or zero where it is zero; a constant."""
    tree = jax.lax.stop_gradient(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree)]))
    scaled = jax.tree.map(lambda x: x / jnp.where(largest > 0, largest, jnp.ones_like(largest)), tree)
    return jax.tree.map(lambda x: x / jnp.sqrt(jnp.maximum(_squared_norm(scaled), jnp.ones_like(largest))), scaled)


def _along(tree: PyTree, offset: Float[Array, ""], direction: PyTree) -> PyTree:
    return jax.tree.map(lambda x, d: x + offset * d, tree, direction)


class Distance(AbstractMeasure):
    r"""$d_x^2 + d_y^2$, the squared distances to the solutions: a supervised objective.

    For problems that know them, that is, that have a method `distances(players)` with one number per player.
    """

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        del sample
        return jnp.sum(jnp.stack(distances(problem, players)) ** 2)


def distances(problem: AbstractProblem, players: Players) -> tuple[Float[Array, ""], ...]:
    """Each player's distance to the solutions, of problems that know it; `ValueError` for others."""
    method = getattr(problem, "distances", None)
    if method is None:
        raise ValueError(
            f"{type(problem).__name__} does not know the distance to its solutions: it has no method "
            "`distances(players)`, which returns one number per player. Judge by `GradientNorm` instead."
        )
    return method(players)


class Along(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} m(x_t, y_t)$ of a measure $m$ after every step."""

    measure: AbstractMeasure

    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        return jnp.sum(_measured(self.measure, unroll)[1:])


class Relative(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} m(x_t, y_t) / (m(x_0, y_0) + \epsilon)$ with the denominator held constant.

    Instances and stages of a run count alike, whatever their scale. `Relative(GradientNorm())` is what `TwinLSTM` is
    trained on by default.

    **Arguments:** `measure`: $m$. `eps`: $\epsilon$, in units of the measure; default 1e-12.
    """

    measure: AbstractMeasure
    eps: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-12)

    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        values = _measured(self.measure, unroll)
        return jnp.sum(values[1:]) / (jax.lax.stop_gradient(values[0]) + self.eps.astype(values.dtype))


class RelativeLog(AbstractMetaObjective):
    r"""$\sum_{t=1}^{T} \ln \max(m(x_t, y_t) / m(x_0, y_0), \epsilon)$ with the denominator held constant.

    Every factor counts alike, down to $\epsilon$, below which nothing is gained.

    **Arguments:** `measure`: $m$. `floor`: $\epsilon$, default 1e-10: for a squared norm that is 1e-5 of the norm.
    """

    measure: AbstractMeasure
    floor: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-10)

    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        values = _measured(self.measure, unroll)
        tiny = jnp.finfo(values.dtype).tiny
        first = jnp.maximum(jax.lax.stop_gradient(values[0]), tiny)
        return jnp.sum(jnp.log(jnp.maximum(values[1:] / first, self.floor.astype(values.dtype))))


def _measured(measure: AbstractMeasure, unroll: Unroll) -> Float[Array, " length"]:
    return jax.vmap(lambda players, sample: measure(unroll.problem, players, sample))(unroll.players, unroll.samples)


def _before(players: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[:-1], players)


def _after(players: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[1:], players)
