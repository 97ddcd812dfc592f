"""A game and how it is played, as the parts of a search for its solutions see it."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gradients import joint_gradient
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players
from .._rollout import AbstractStep, rollout
from .._solve import stack_samples
from .._step import OptimizerStep
from ._coordinates import ravel_real
from ._operators import JacobianOperator, game_jacobian, step_jacobian


class Game(eqx.Module):
    """Problem and optimizer; points are flat vectors of the players' coordinates.

    - `problem`, `optimizer`: what is solved, and how.
    - `example`: players: their structure.
    - `key`: fixes the samples of a problem with randomness.
    """

    problem: AbstractProblem
    optimizer: AbstractOptimizer
    example: Players
    key: PRNGKeyArray

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return sum(x.size for x in jax.tree.leaves(self.example))

    def players(self, flat: Float[Array, " dim"] | np.ndarray) -> Players:
        """A point as players."""
        template, unravel = ravel_real(self.example)
        return unravel(jnp.asarray(flat, template.dtype))

    def flat(self, players: Players) -> np.ndarray:
        """Players as a point."""
        return np.asarray(ravel_real(players)[0])

    def sample(self) -> PyTree:
        """The fixed samples of one step, stacked."""
        return jax.tree.map(lambda x: x[0], stack_samples(self.problem, self.key, 1, self.optimizer.samples_per_step))

    def step_jacobian(self, flat: np.ndarray) -> JacobianOperator:
        """Of one step of the optimizer with a new state. Its first coordinates are the players."""
        players = self.players(flat)
        carry = (players, self.optimizer.init(self.problem, players, self.key))
        return step_jacobian(OptimizerStep(self.problem, self.optimizer), carry, self.sample())

    def game_jacobian(self, flat: np.ndarray) -> JacobianOperator:
        """Of the joint gradient."""
        return game_jacobian(self.problem, self.players(flat), jax.tree.map(lambda x: x[0], self.sample()))

    @functools.cached_property
    def gradients_per_step(self) -> float:
        """The cost of a step of the optimizer, as it counts itself."""
        return float(_count(self))

    def evaluate(self, flats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The losses at each of several points, and how far a step of the optimizer moves it."""
        losses, residual = _evaluate(self, jnp.asarray(flats))
        return np.asarray(losses), np.asarray(residual)

    def descend(self, flats: np.ndarray, numbers: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs the optimizer from each of several points; the ends, and which of them are those of finite runs.

        `numbers` name the runs: one with the same number sees the same samples.
        """
        ends, finite = _descend(self, jnp.asarray(flats), jnp.asarray(numbers), num_steps)
        return np.asarray(ends), np.asarray(finite)


@eqx.filter_jit
def _count(game):
    state = game.optimizer.init(game.problem, game.example, game.key)
    return game.optimizer.step(game.problem, game.example, state, game.sample())[2].cost.gradients


@eqx.filter_jit
def _evaluate(game, flats):
    def one(flat):
        players, sample = game.players(flat), game.sample()
        state = game.optimizer.init(game.problem, players, game.key)
        new, _, info = game.optimizer.step(game.problem, players, state, sample)
        return info.losses, jnp.linalg.norm(ravel_real(new)[0] - flat)

    return jax.vmap(one)(flats)


@eqx.filter_jit
def _descend(game, flats, numbers, num_steps):
    def one(flat, number):
        players = game.players(flat)
        state_key, sample_key = jax.random.split(jax.random.fold_in(game.key, number))
        carry = (players, game.optimizer.init(game.problem, players, state_key))
        xs = stack_samples(game.problem, sample_key, num_steps, game.optimizer.samples_per_step)
        step = _Quiet(OptimizerStep(game.problem, game.optimizer))
        out = rollout(step, carry, xs, num_steps=num_steps, throw=False)
        return ravel_real(out.carry[0])[0], out.num_steps == num_steps

    return jax.vmap(one)(flats, numbers)


class _Quiet(AbstractStep):
    """A step without its info: of many long runs only the ends are wanted."""

    step: AbstractStep

    def __call__(self, carry: Any, x: Any) -> tuple[Any, None]:
        return self.step(carry, x)[0], None

    def iterate(self, carry: Any) -> PyTree:
        return self.step.iterate(carry)


def field(game: Game, flat: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """The joint gradient at a point, on the fixed sample."""
    sample = jax.tree.map(lambda x: x[0], game.sample())
    return ravel_real(joint_gradient(game.problem, game.players(flat), sample)[1])[0]
