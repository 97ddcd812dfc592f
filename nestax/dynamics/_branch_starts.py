"""Where a search for solutions starts: the first component of the branching tree search."""

import abc
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import count
from .._gradients import joint_gradient
from .._optimizer import AbstractOptimizer
from .._problem import AbstractDeterministicProblem, AbstractProblem, Players, Sample
from .._solve import solve
from .._tree import check_same_structure
from ..optimizers import adam
from ._coordinates import ravel_real
from ._game import Game
from ._lyapunov import AbstractExponents, Benettin, FiniteTime, lyapunov_exponents
from ._objectives import AbstractObjective, ExponentProblem, LargestExponent


@dataclasses.dataclass(frozen=True)
class Start:
    """A starting point: flat coordinates, what it cost in gradients, and what is known of it (numbers by name)."""

    flat: np.ndarray
    num_gradients: float
    facts: dict[str, float]


class AbstractStart(eqx.Module):
    """Finds the point at which the first branches leave."""

    @abc.abstractmethod
    def __call__(self, game: Game, key: PRNGKeyArray) -> Start:
        """The starting point."""


class RandomStart(AbstractStart):
    """A random initial point of the problem: the control without which no other start says anything."""

    def __call__(self, game, key):
        return Start(game.flat(game.problem.init(key)), 0.0, {})


class GivenStart(AbstractStart):
    """Known players: a saddle in closed form, or the end of a run.

    **Arguments:** `players`: where to start.
    """

    players: Players

    def __call__(self, game, key):
        del key
        check_same_structure(self.players, game.example, "players")
        return Start(game.flat(self.players), 0.0, {})


class RankedStart(AbstractStart):
    """The best of many random initial points, by an objective of its exponents over a long horizon. No gradients of
    exponents, no power iteration: one product with the Jacobian per step and draw.

    What counts is the horizon, learning rate times steps: it must be long enough to leave the neighbourhood.

    **Arguments:**

    - `num_draws`: default 300.
    - `num_steps`: of each run. Default 30.
    - `objective`, `num`, `definition`: of the exponents; default the largest one, by `Benettin`.
    - `batch_size`: draws that are computed together. Default 512.
    """

    num_draws: int = eqx.field(static=True, default=300)
    num_steps: int = eqx.field(static=True, default=30)
    objective: AbstractObjective = LargestExponent()
    num: int = eqx.field(static=True, default=1)
    definition: AbstractExponents = Benettin()
    batch_size: int = eqx.field(static=True, default=512)

    def __check_init__(self):
        count(self.num_draws, "num_draws")

    def __call__(self, game, key):
        flats, values = _rank(self, game, jax.random.split(key, self.num_draws))
        values = np.where(np.isfinite(values), values, -np.inf)
        best = int(np.argmax(values))
        steps = self.num_draws * self.definition.count_steps(self.num_steps, self.num, game.dim)
        facts = {"exponent": float(values[best]), "median_exponent": float(np.median(values))}
        return Start(np.asarray(flats[best]), steps * game.gradients_per_step, facts)


@eqx.filter_jit
def _rank(start, game, keys):
    def one(key):
        players = game.problem.init(key)
        out = lyapunov_exponents(
            game.problem,
            game.optimizer,
            players,
            num_steps=start.num_steps,
            num=start.num,
            definition=start.definition,
            key=game.key,
        )
        finite = out.num_steps == start.num_steps  # of a run that diverged the exponent says nothing
        value = jnp.where(finite, start.objective(out.exponents), -jnp.inf)
        return ravel_real(players)[0], value

    return jax.lax.map(one, keys, batch_size=min(start.batch_size, len(keys)))


class AscentStart(AbstractStart):
    """Gradient ascent of an objective of the exponents, from a random initial point.

    Stop early: an exponent of one step has no maximum near a boundary between basins, and long ascent ends in far-away
    corners where nothing branches.

    **Arguments:**

    - `num_ascent_steps`: default 10.
    - `optimizer`: of the ascent. Default Adam with a step of 0.05.
    - `num_steps`, `num`, `objective`, `definition`: of the exponents; default the largest one, of one step.
    - `start`: where it begins. Default `RandomStart()`.
    """

    num_ascent_steps: int = eqx.field(static=True, default=10)
    optimizer: AbstractOptimizer = eqx.field(default_factory=lambda: adam(0.05))
    num_steps: int = eqx.field(static=True, default=1)
    num: int = eqx.field(static=True, default=1)
    objective: AbstractObjective = LargestExponent()
    definition: AbstractExponents = FiniteTime()
    start: AbstractStart = RandomStart()

    def __call__(self, game, key):
        start_key, key = jax.random.split(key)
        begin = self.start(game, start_key)
        if self.num_ascent_steps == 0:
            return begin
        search = ExponentProblem(
            game.problem, game.optimizer, self.num_steps, self.num, self.objective, self.definition, game.key
        )
        out = solve(
            search,
            self.optimizer,
            num_steps=self.num_ascent_steps,
            key=key,
            players=(game.players(begin.flat),),
            throw=False,
        )
        values = -np.asarray(out.losses[:, 0])
        # a reverse pass counts as two forward ones
        steps = 3 * self.num_ascent_steps * self.definition.count_steps(self.num_steps, self.num, game.dim)
        facts = {
            **begin.facts,
            "exponent_before": float(values[0]),
            "exponent": float(values[max(int(out.num_steps) - 1, 0)]),
        }
        return Start(game.flat(out.players[0]), begin.num_gradients + steps * game.gradients_per_step, facts)


class SaddleStart(AbstractStart):
    r"""A stationary point: minimizes $\tfrac12 \lVert g \rVert^2$ of the joint gradient from a random initial point.

    It may be a minimum as well; Ridge Rider then has nowhere to go.

    **Arguments:** `num_steps`: default 1,000. `optimizer`: default Adam with a step of 0.05. `start`: default
    `RandomStart()`.
    """

    num_steps: int = eqx.field(static=True, default=1_000)
    optimizer: AbstractOptimizer = eqx.field(default_factory=lambda: adam(0.05))
    start: AbstractStart = RandomStart()

    def __call__(self, game, key):
        start_key, key = jax.random.split(key)
        begin = self.start(game, start_key)
        sample = jax.tree.map(lambda x: x[0], game.sample())
        out = solve(
            _Stationarity(game.problem, sample),
            self.optimizer,
            num_steps=self.num_steps,
            key=key,
            players=(game.players(begin.flat),),
            throw=False,
        )
        facts = {**begin.facts, "gradient_norm": float(np.sqrt(2 * out.losses[int(out.num_steps) - 1, 0]))}
        return Start(game.flat(out.players[0]), begin.num_gradients + 3.0 * self.num_steps, facts)


class _Stationarity(AbstractDeterministicProblem):
    problem: AbstractProblem
    sample: Sample

    def init(self, key):
        return (self.problem.init(key),)

    def losses(self, players, sample):
        field = joint_gradient(self.problem, players[0], self.sample)[1]
        return (sum(jnp.sum(g**2) for g in jax.tree.leaves(field)) / 2,)
