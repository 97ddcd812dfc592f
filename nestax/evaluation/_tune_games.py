"""Optimizers of games by grid search over all their hyperparameters, the whole grid in one compiled call."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem
from ..measures import AbstractScore, TailDistance, trajectory
from ..optimizers import Alternating, Anchoring, Extragradient, Halpern, KBeam, OptimisticGradient, SwappedGradient, sgd
from ._game_runs import count_instances, start_keys

MakeGame = Callable[..., AbstractOptimizer]

_STEPS = tuple(round(10 ** (i / 4), 6) for i in range(-16, 1))  # four per decade
_IMPLICIT = (0.01, 0.1, 1.0, 10.0)


def _alternating(learning_rate):
    return Alternating(sgd(learning_rate))


def _k_beam(learning_rate):
    return KBeam(learning_rate)


# name: (optimizer of its hyperparameters, grid of each)
GAMES: dict[str, tuple[MakeGame, dict[str, tuple[float, ...]]]] = {
    "gda": (sgd, {"learning_rate": _STEPS}),
    "alternating-gda": (_alternating, {"learning_rate": _STEPS}),
    "ogda": (OptimisticGradient, {"learning_rate": _STEPS}),
    "extragradient": (Extragradient, {"learning_rate": _STEPS[4:], "extrapolation": _STEPS[4:]}),
    "anchoring": (
        Anchoring,
        {
            "learning_rate": (0.1, 1.0, 10.0),
            "power": (0.55, 0.65, 0.75, 0.85, 0.95),
            "anchoring": (1.0, 2.0, 5.0),
        },
    ),
    "k-beam": (_k_beam, {"learning_rate": (0.01, 0.03, 0.1, 0.3, 1.0)}),
    "halpern": (Halpern, {"alpha": _IMPLICIT}),
    "swap": (
        SwappedGradient,
        {"learning_rate": (-0.3, -0.1, -0.06, -0.03, -0.01, 0.01, 0.03, 0.06, 0.1, 0.3)},
    ),
}
"""Classical optimizers of games with their grids: a function of hyperparameters, and the values of each."""


@dataclasses.dataclass(frozen=True)
class GridSearch:
    """A finished grid search.

    - `names`: of the hyperparameters.
    - `points`: their values, shape `(points, names)`.
    - `scores`: mean over the runs that did not diverge, shape `(points,)`; the lower the better.
    - `num_diverged`: how many did, shape `(points,)`.
    """

    names: tuple[str, ...]
    points: Float[np.ndarray, "points names"]
    scores: Float[np.ndarray, " points"]
    num_diverged: Int[np.ndarray, " points"]

    def best(self) -> dict[str, float]:
        """The hyperparameters with the fewest diverged runs, and among these the lowest score."""
        return dict(zip(self.names, map(float, self.points[int(np.lexsort((self.scores, self.num_diverged))[0])])))

    def at_edge(self) -> tuple[str, ...]:
        """The hyperparameters whose best value is the smallest or largest of several: a wider grid may hold better."""
        best = self.best()
        return tuple(
            name
            for name, column in zip(self.names, self.points.T)
            if len(set(column)) > 1 and best[name] in (column.min(), column.max())
        )


@eqx.filter_jit
def _scores(make, names, score, problems, points, keys, num_steps, batch_size):
    def one(problem, key, point):
        run = trajectory(problem, make(**dict(zip(names, point))), num_steps=num_steps, key=key)
        values = run.values(score.measure)
        return score(values, run.num_gradients), score.diverged(values)

    def at(point):
        runs = eqx.filter_vmap(lambda problem, keys: jax.vmap(lambda key: one(problem, key, point))(keys))
        scores, diverged = runs(problems, keys)
        num = (~diverged).sum()
        total = jnp.where(diverged, jnp.zeros_like(scores), scores).sum()
        return jnp.where(num > 0, total / jnp.maximum(num, 1).astype(total.dtype), jnp.inf), diverged.sum()

    return jax.lax.map(at, points, batch_size=batch_size)


def tune_games(
    make: MakeGame,
    grid: Mapping[str, Sequence[float]],
    problems: AbstractProblem,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_starts: int = 1,
    score: AbstractScore | None = None,
    batch_size: int = 16,
) -> GridSearch:
    """Runs `make(**hyperparameters)` on every point of a grid, on every game of a batch, from every start.

    One compiled call, in which points are batched by `vmap`, `batch_size` at a time to bound memory.

    **Arguments:**

    - `make`: an optimizer as a function of its hyperparameters, such as `nestax.optimizers.Extragradient`.
    - `grid`: for each of them the values; all combinations are tried. `GAMES` holds both for classical methods.
    - `problems`: a batch of games, as in `run_games`. **Never tune on the games that are reported.**
    - `num_steps`: steps per run, as many as in the evaluation.
    - `key`: fixes the initial points.
    - `num_starts`: initial points per game. Default 1.
    - `score`: `nestax.measures.TailDistance()` (default), `CostToTolerance(tolerance)`, or your own `AbstractScore`.
    - `batch_size`: points at a time. Default 16.

    **Returns** a `GridSearch`.

    **Raises** `ValueError` for an empty grid, and for games that are not a batch.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> games = jax.vmap(nx.problems.RotatedSaddle.random)(jax.random.split(jax.random.key(0), 4))
    >>> make, _ = nx.evaluation.GAMES["extragradient"]
    >>> grid = {"learning_rate": (0.01, 0.1, 0.3, 1.0), "extrapolation": (0.1, 0.3)}
    >>> search = nx.evaluation.tune_games(make, grid, games, num_steps=20, key=jax.random.key(1))
    >>> optimizer = make(**search.best())
    >>> len(search.scores), sorted(search.best())
    (8, ['extrapolation', 'learning_rate'])

    ```
    """
    names = tuple(grid)
    points = np.array(list(itertools.product(*grid.values())), np.float64)
    if not names or not points.size:
        raise ValueError(f"Give at least one hyperparameter with at least one value to tune, got {dict(grid)}.")
    keys = start_keys(key, count_instances(problems), num_starts)
    score = TailDistance() if score is None else score
    dtype = jnp.zeros(()).dtype
    scores, failed = _scores(make, names, score, problems, jnp.asarray(points, dtype), keys, num_steps, batch_size)
    return GridSearch(names, points, np.asarray(scores, np.float64), np.asarray(failed))
