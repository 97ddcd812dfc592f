"""The first move along a branch: a component of the branching tree search."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import named, positive
from .._gradients import evaluate_losses, game_jvp
from .._rollout import AbstractStep, rollout
from ._coordinates import ravel_real
from ._game import Game, field


class AbstractMove(eqx.Module):
    """Leaves a point along a direction, before the optimizer takes over."""

    @abc.abstractmethod
    def __call__(self, game: Game, flats: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From points and unit vectors, both of shape `(branches, dim)`: where the optimizer begins, and what each
        move cost in gradients."""


class Jump(AbstractMove):
    """One step of a given length. Costs nothing.

    **Arguments:** `length`: default 1. The longer, the more the jump itself finds, in any direction: compare with
    `RandomDirections` at the same length.
    """

    length: Float[Array, ""] = eqx.field(converter=named(positive, "length"), default=1.0)

    def __call__(self, game, flats, directions):
        del game
        return flats + float(self.length) * directions, np.zeros(len(flats))


class UntilTurn(AbstractMove):
    r"""Small steps along the direction until the joint gradient changes sides: until $\langle d, g \rangle$ flips its
    sign, or `max_steps` are made.

    **Arguments:** `step_size`: default 0.1. `max_steps`: default 100.
    """

    step_size: Float[Array, ""] = eqx.field(converter=named(positive, "step_size"), default=0.1)
    max_steps: int = eqx.field(static=True, default=100)

    def __call__(self, game, flats, directions):
        ends, cost = _until_turn(self, game, jnp.asarray(flats), jnp.asarray(directions))
        return np.asarray(ends), np.asarray(cost, float)


class AbstractRidge(eqx.Module):
    """Follows an eigenvector of the Hessian from one point to the next."""

    @abc.abstractmethod
    def update(
        self, product: Any, direction: Float[Array, " dim"]
    ) -> tuple[Float[Array, " dim"], Float[Array, ""], int]:
        """The eigenvector near `direction` of the map `product`, its eigenvalue, and how many products that took."""


class NearestEigenvector(AbstractRidge):
    """The eigenvector with the largest overlap, from the whole matrix: exact, for small problems."""

    def update(self, product, direction):
        basis = jnp.eye(direction.size, dtype=direction.dtype)
        matrix = jax.vmap(product)(basis)
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        overlap = direction @ vectors
        best = jnp.argmax(jnp.abs(overlap))
        sign = jnp.where(overlap[best] < 0, -jnp.ones_like(overlap[best]), jnp.ones_like(overlap[best]))
        return sign * vectors[:, best], values[best], direction.size


class PowerOnStep(AbstractRidge):
    r"""Power iteration on the step of gradient descent, $e \leftarrow (I - \alpha H) e$ normalized, from the last $e$.

    It tends to the most negative eigenvalue if $\alpha (\lambda_{\max} + \lambda_{\min}) < 2$: the estimator of
    Generalized Ridge Rider for one player.

    **Arguments:** `learning_rate`: $\alpha$. `num_iterations`: one Hessian-vector product each. Default 1.
    """

    learning_rate: Float[Array, ""] = eqx.field(converter=named(positive, "learning_rate"))
    num_iterations: int = eqx.field(static=True, default=1)

    def update(self, product, direction):
        value = jnp.zeros((), direction.dtype)
        for _ in range(self.num_iterations):
            image = product(direction)
            value = direction @ image
            direction = direction - self.learning_rate.astype(direction.dtype) * image
            direction = direction / jnp.linalg.norm(direction)
        return direction, value, self.num_iterations


class Ride(AbstractMove):
    r"""Rides a ridge: $w \leftarrow w + a\, e$ with the eigenvector $e$ of the Hessian found anew near the last one,
    while
    its eigenvalue is negative and the loss falls.

    **Arguments:**

    - `step_size`: $a$. Default 0.05.
    - `max_steps`: default 200.
    - `ridge`: how $e$ is followed. Default `NearestEigenvector()`, for small problems; `PowerOnStep` for large ones.

    **Source:** J. Parker-Holder et al., *Ridge Rider*, NeurIPS 2020.
    """

    step_size: Float[Array, ""] = eqx.field(converter=named(positive, "step_size"), default=0.05)
    max_steps: int = eqx.field(static=True, default=200)
    ridge: AbstractRidge = NearestEigenvector()

    def __call__(self, game, flats, directions):
        if len(game.example) != 1:
            raise ValueError(
                f"`Ride` follows the Hessian of a single loss, but the game has {len(game.example)} players. Use "
                "`Jump` or `UntilTurn`."
            )
        ends, cost = _ride(self, game, jnp.asarray(flats), jnp.asarray(directions))
        return np.asarray(ends), np.asarray(cost, float)


class _RideStep(AbstractStep):
    """The carry is the point, the direction, the loss there, whether the ride goes on, and what it has cost."""

    game: Game
    step_size: Float[Array, ""]
    ridge: AbstractRidge

    def __call__(self, carry, x):
        del x
        flat, direction, loss, rides, cost = carry
        players, sample = self.game.players(flat), jax.tree.map(lambda x: x[0], self.game.sample())

        def product(v):
            return ravel_real(game_jvp(self.game.problem, players, sample, self.game.players(v)))[0]

        new, value, num = self.ridge.update(product, direction)
        ahead = flat + self.step_size.astype(flat.dtype) * new
        new_loss = evaluate_losses(self.game.problem, self.game.players(ahead), sample)[0]
        cost = jnp.where(rides, cost + 2 * num, cost)
        goes_on = rides & (value < 0) & (new_loss < loss)
        flat, direction, loss = (
            jnp.where(goes_on, a, b) for a, b in zip((ahead, new, new_loss), (flat, direction, loss))
        )
        return (flat, direction, loss, goes_on, cost), None

    def iterate(self, carry):
        return carry[0]  # the first loss is infinite: whatever comes first is below it


@eqx.filter_jit
def _ride(move, game, flats, directions):
    step = _RideStep(game, move.step_size, move.ridge)

    def one(flat, direction):
        losses = jax.eval_shape(game.problem.losses, game.players(flat), jax.tree.map(lambda x: x[0], game.sample()))
        start = (flat, direction.astype(flat.dtype), jnp.array(jnp.inf, losses[0].dtype), jnp.array(True), jnp.array(0))
        out = rollout(step, start, None, num_steps=move.max_steps, throw=False)
        return out.carry[0], out.carry[4]

    return jax.vmap(one)(flats, directions)


@eqx.filter_jit
def _until_turn(move, game, flats, directions):
    def one(flat, direction):
        side = jnp.sign(direction @ field(game, flat))

        def goes_on(state):
            index, point = state
            return (index < move.max_steps) & (jnp.sign(direction @ field(game, point)) == side)

        def advance(state):
            return state[0] + 1, state[1] + move.step_size.astype(flat.dtype) * direction

        index, end = jax.lax.while_loop(goes_on, advance, (jnp.array(0), flat))
        return end, index + 2

    return jax.vmap(one)(flats, directions)
