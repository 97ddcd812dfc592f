"""Measures of a point: distances to solutions, gradient norms, and others that are small near a solution."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import named, nonnegative
from .._gradients import evaluate_losses, joint_gradient
from .._problem import AbstractProblem, Players, Sample, check_zero_sum


class AbstractMeasure(eqx.Module):
    """A number at one point. Scores follow it along a run, meta-objectives sum it over an unroll."""

    @abc.abstractmethod
    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        """The measure at `players`, on one `sample`."""


def _squared_norm(tree: PyTree) -> Float[Array, ""]:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))  # pyright: ignore[reportReturnType]


def _norm(squares: Float[Array, ""]) -> Float[Array, ""]:
    """The root, with the derivative zero at zero."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, jnp.ones_like(squares))), squares)


class SquaredDistance(AbstractMeasure):
    r"""$\sum_i d_i^2$ with every player's distance $d_i$ to the solutions, for problems that know them (`distances`).

    Smooth at a solution: as a meta-objective, `nestax.meta.TrajectorySum(SquaredDistance())`, it is the supervised one.
    """

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        del sample
        return jnp.sum(jnp.stack(problem.distances(players)) ** 2)


class Distance(AbstractMeasure):
    r"""$\sqrt{\sum_i d_i^2}$, the joint distance to the solutions, for problems that know them (`distances`)."""

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        return _norm(SquaredDistance()(problem, players, sample))


class SquaredGradientNorm(AbstractMeasure):
    r"""$\sum_i \lVert \partial_i L_i \rVert^2$, the squared norm of the joint gradient; with `player` that part alone.

    In a zero-sum game it is $\lVert \nabla_x f \rVert^2 + \lVert \nabla_y f \rVert^2$.
    `nestax.meta.TrajectorySum(SquaredGradientNorm())` is the gradient-based reward, eq. 38 of Shen et al. (ICLR 2021).
    """

    player: int | None = eqx.field(static=True, default=None)

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        _, field = joint_gradient(problem, players, sample)
        return _squared_norm(field if self.player is None else field[self.player])


class GradientNorm(AbstractMeasure):
    r"""The norm of the joint gradient, $\sqrt{\sum_i \lVert \partial_i L_i \rVert^2}$; with `player` of that part."""

    player: int | None = eqx.field(static=True, default=None)

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        return _norm(SquaredGradientNorm(self.player)(problem, players, sample))


class Hamiltonian(AbstractMeasure):
    r"""$\tfrac12 \lVert F \rVert^2$ with the joint gradient $F$: what a Hamiltonian descent makes small."""

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        return 0.5 * SquaredGradientNorm()(problem, players, sample)


class Loss(AbstractMeasure):
    """One player's loss, by default the first one's. Along a run it costs nothing: every step reports it."""

    player: int = eqx.field(static=True, default=0)

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        return evaluate_losses(problem, players, sample)[self.player]


class Magnitude(AbstractMeasure):
    """The largest absolute coordinate of all players."""

    def __call__(self, problem: AbstractProblem, players: Players, sample: Sample) -> Float[Array, ""]:
        del problem, sample
        with jax.numpy_dtype_promotion("standard"):
            return jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(players)]))


class Gap(AbstractMeasure):
    r"""The duality gap within reach: what the players could gain by a move of at most `delta` along their gradients,
    by trying, $\max_k f(x, y + o_k v) - \min_k f(x + o_k u, y)$.

    $o_k$ are `num_offsets` evenly spaced numbers from `-delta` to `delta`, and $u, v$ the unit vectors along the
    gradients (held constant). With one coordinate per player that is all of a neighbourhood. It uses values of the
    payoff only, and has no minimum where a gradient vanishes for want of interaction. Zero-sum games.

    **Arguments:** `delta`: in units of the players; default 0.5. `num_offsets`: odd, so that standing still is among
    them and the gap is not negative; default 17.
    """

    delta: Float[Array, ""] = eqx.field(converter=named(nonnegative, "delta"), default=0.5)
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
        best = jnp.max(jax.vmap(lambda o: payoff((x, _shifted(y, o, v)), sample))(offsets))
        return best - jnp.min(jax.vmap(lambda o: payoff((_shifted(x, o, u), y), sample))(offsets))


def _unit(tree: PyTree) -> PyTree:
    """`tree` at length 1, or zero where it is zero; a constant."""
    tree = jax.lax.stop_gradient(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree)]))
    scaled = jax.tree.map(lambda x: x / jnp.where(largest > 0, largest, jnp.ones_like(largest)), tree)
    return jax.tree.map(lambda x: x / jnp.sqrt(jnp.maximum(_squared_norm(scaled), jnp.ones_like(largest))), scaled)


def _shifted(tree: PyTree, offset: Float[Array, ""], direction: PyTree) -> PyTree:
    return jax.tree.map(lambda x, d: x + offset * d, tree, direction)
