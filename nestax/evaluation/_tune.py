"""Hyperparameters by grid search: every point, problem and seed in one compiled call."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .._checks import count, instance
from .._family import AnyFamily, as_family, draw_runs
from .._mesh import Devices, fetch, num_devices, replicate, resolve, spread_padded
from .._optax import AnyOptimizer
from .._problem import AbstractProblem
from ..measures import AbstractScore, TailDistance, TrailingLoss, curve

DRAWN = 32
"""How many problems are drawn of an endless family where the caller does not say."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A finished grid search.

    - `points`: the hyperparameters of every point of the grid.
    - `marks`: numbers of steps at which the runs were scored.
    - `scores`: of every run, the lower the better; shape `(points, runs, marks)`, infinite where a run failed.
    - `diverged`: which of the runs diverged, in the sense of the score; the same shape.

    Points are ranked by the number of runs that diverged, and among equal ones by the mean score of the others.
    """

    points: tuple[dict[str, Any], ...]
    marks: tuple[int, ...]
    scores: Float[np.ndarray, "points runs marks"]
    diverged: Bool[np.ndarray, "points runs marks"]

    def _column(self, mark: int | None) -> int:
        mark = self.marks[-1] if mark is None else mark
        if mark not in self.marks:
            raise ValueError(f"The runs were scored at the marks {self.marks}, not at {mark!r}.")
        return self.marks.index(mark)

    def num_diverged(self, mark: int | None = None) -> Int[np.ndarray, " points"]:
        """How many runs of every point diverged by `mark` (default: the last)."""
        return self.diverged[..., self._column(mark)].sum(axis=1)

    def mean_scores(self, mark: int | None = None) -> Float[np.ndarray, " points"]:
        """The mean score of every point over the runs that did not diverge by `mark`; of all, where all did."""
        column = self._column(mark)
        scores, diverged = self.scores[..., column], self.diverged[..., column]
        counted = ~diverged | diverged.all(axis=1, keepdims=True)
        return np.where(counted, scores, 0).sum(axis=1) / counted.sum(axis=1)

    def best(self, mark: int | None = None) -> dict[str, Any]:
        """The hyperparameters that rank first at `mark` (default: the last).

        **Raises** `ValueError` where no run of any point stayed finite.
        """
        order = np.lexsort((self.mean_scores(mark), self.num_diverged(mark)))
        if not np.isfinite(self.scores[..., self._column(mark)]).any():
            grid = {name: sorted({point[name] for point in self.points}, key=str) for name in self.points[0]}
            raise ValueError(f"Every run of the grid {grid} diverged. Give a grid of smaller step sizes.")
        return dict(self.points[int(order[0])])

    def at_edge(self, mark: int | None = None) -> tuple[str, ...]:
        """The hyperparameters whose best value is the smallest or largest of several: a wider grid may hold a better
        one."""
        best, names = self.best(mark), []
        for name, value in best.items():
            values = {point[name] for point in self.points}
            if len(values) > 1 and all(_is_real(v) for v in values) and value in (min(values), max(values)):
                names.append(name)
        return tuple(names)


def _is_real(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_swept(values: Sequence[Any]) -> bool:
    """Whether the values can be one array: numbers, of which at least one is no integer."""
    numbers = all(isinstance(v, float | complex | int | np.number) and not isinstance(v, bool) for v in values)
    return numbers and not all(isinstance(v, int | np.integer) for v in values)


def _run_scores(make, fixed, score, family, point, choice, key, num_steps, marks):
    """The scores of one run, and whether it diverged, at every mark."""
    optimizer = make(**point, **dict(fixed))
    values, costs = curve(family.get(choice), optimizer, score.measure, num_steps=num_steps, key=key)
    parts = [(values[: mark + 1], costs[: mark + 1]) for mark in marks]
    return jnp.stack([score(*part) for part in parts]), jnp.stack([score.diverged(part[0]) for part in parts])


@eqx.filter_jit
def _scores(make, fixed, arrays, num_steps, marks, batch_size, mesh):
    score, family, choices, keys, swept = arrays

    if mesh is not None:  # every run of every point is an entry of one batch: devices share points and runs alike
        runs, points = keys.size, len(next(iter(swept.values()))) if swept else 1
        size = max(batch_size * runs // num_devices(mesh), 1)
        settings = (make, fixed, num_steps, marks, size)
        out = spread_padded(
            mesh, Partial(_scores_at, settings, score, family, choices, keys, swept), jnp.arange(points * runs)
        )
        return jax.tree.map(lambda x: x.reshape(points, runs, *x.shape[1:]), out)

    def at(point):
        return jax.vmap(
            lambda choice, key: _run_scores(make, fixed, score, family, point, choice, key, num_steps, marks)
        )(choices, keys)

    return jax.lax.map(at, swept, batch_size=batch_size) if swept else jax.tree.map(lambda x: x[None], at({}))


def _scores_at(settings, score, family, choices, keys, swept, indices):
    """The scores of some of the runs of all points, counted point by point."""
    make, fixed, num_steps, marks, batch_size = settings

    def one(i):
        point = jax.tree.map(lambda x: x[i // keys.size], swept)
        choice, key = jax.tree.map(lambda x: x[i % keys.size], (choices, keys))
        return _run_scores(make, fixed, score, family, point, choice, key, num_steps, marks)

    return jax.lax.map(one, indices, batch_size=min(batch_size, indices.size))


def tune(
    problem: AnyFamily,
    make: Callable[..., AnyOptimizer],
    grid: Mapping[str, Sequence[Any]],
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_problems: int | None = None,
    num_seeds: int | None = None,
    score: AbstractScore | None = None,
    marks: Sequence[int] | None = None,
    batch_size: int = 16,
    mesh: Devices = None,
) -> Tuning:
    """Runs `make(**hyperparameters)` at every point of a grid, on every problem, with every seed, and scores the runs.

    One compiled call, in which the points are batched by `vmap`, `batch_size` at a time to bound memory; of a run only
    the measure along it is kept. Hyperparameters whose values are integers, booleans or other objects cannot be
    batched: every combination of these is one call.

    **Arguments:**

    - `problem`: a problem, or a family of problems: an `AbstractFamily`, or a function from a PRNG key to a problem.
      A batch of problems is `nestax.Instances(problems)`. **Never tune on the problems that are reported.**
    - `make`: an optimizer as a function of its hyperparameters, such as `nestax.optimizers.adam`. Pass a function that
      has a name: a new lambda each time compiles anew each time.
    - `grid`: for each of them the values; all combinations are tried. `CLASSICAL` and `CLASSICAL_FOR_GAMES` hold both,
      so that `tune(problem, *CLASSICAL["adam"], ...)` tunes Adam.
    - `num_steps`: updates per run, as many as in the evaluation.
    - `key`: fixes problems, initial points and samples. Use another one than for the evaluation.
    - `num_problems`: how many problems; default: all of a finite family, 32 of an endless one.
    - `num_seeds`: runs per problem. Default 3 for a single problem, else 1.
    - `score`: what is made small: default `nestax.measures.TrailingLoss()` for one player, and
      `nestax.measures.TailDistance()` for games that know their solutions.
    - `marks`: score at these numbers of steps, each as if the run ended there; default only at the end.
    - `batch_size`: points at a time. Default 16.
    - `mesh`: which devices share the runs of all points: a number of devices, or a `jax.sharding.Mesh`; where they do
      not divide the runs, the last one is made again to fill up, and dropped. Default `None`: all devices of this
      process where they divide the runs of a call, else one.

    **Returns** a `Tuning`.

    **Raises** `ValueError` for an empty grid, marks outside the run, and a game without a score.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> games = jax.vmap(nx.problems.RotatedSaddle.random)(jax.random.split(jax.random.key(0), 4))
    >>> grid = {"learning_rate": (0.01, 0.1, 0.3, 1.0), "extrapolation": (0.1, 0.3)}
    >>> make = nx.optimizers.Extragradient
    >>> tuning = nx.evaluation.tune(nx.Instances(games), make, grid, num_steps=20, key=jax.random.key(1))
    >>> optimizer = make(**tuning.best())
    >>> len(tuning.points), sorted(tuning.best())
    (8, ['extrapolation', 'learning_rate'])

    ```
    """
    family = as_family(problem, "problem")
    num_steps, batch_size = count(num_steps, "num_steps"), count(batch_size, "batch_size")
    marks = (num_steps,) if marks is None else tuple(sorted(count(mark, "marks") for mark in marks))
    if not marks or marks[-1] > num_steps:
        raise ValueError(f"`marks` must be numbers of steps from 1 to {num_steps}, got {marks}.")
    if not grid or not all(len(values) for values in grid.values()):
        raise ValueError(f"Give at least one hyperparameter with at least one value to tune, got {dict(grid)}.")
    if num_seeds is None:
        num_seeds = 3 if family.num == 1 else 1
    choices, keys, _ = draw_runs(family, num_problems, num_seeds, key, DRAWN)
    score = _default_score(family, keys[0]) if score is None else instance(score, AbstractScore, "score")
    swept = [name for name, values in grid.items() if _is_swept(values)]
    fixed = [name for name in grid if name not in swept]
    points, results = [], []
    for combination in itertools.product(*(grid[name] for name in fixed)):
        mine = list(itertools.product(*(grid[name] for name in swept)))
        columns, size = _columns(swept, mine, batch_size)
        devices = resolve(mesh, keys.size * (len(next(iter(columns.values()))) if columns else 1))
        setting, arrays = tuple(zip(fixed, combination)), replicate(devices, (score, family, choices, keys, columns))
        scores, diverged = fetch(_scores(make, setting, arrays, num_steps, marks, size, devices))
        results.append((scores[: len(mine)], diverged[: len(mine)]))
        points += [dict(zip(fixed, combination)) | dict(zip(swept, map(_plain, point))) for point in mine]
    scores, diverged = (np.concatenate(parts) for parts in zip(*results))
    scores = np.where(np.isfinite(scores), scores, np.inf).astype(np.float64)
    points = tuple({name: point[name] for name in grid} for point in points)
    return Tuning(points, marks, scores, diverged | ~np.isfinite(scores))


def _columns(names, points, batch_size) -> tuple[dict[str, Any], int]:
    """The points as arrays, filled up to whole batches of equal size, so that one program serves all of them."""
    if not names:
        return {}, 1
    size = math.ceil(len(points) / math.ceil(len(points) / batch_size))
    points = points + [points[-1]] * (-len(points) % size)
    columns = {name: np.asarray(column) for name, column in zip(names, zip(*points))}
    kinds = {name: complex if np.iscomplexobj(x) else float for name, x in columns.items()}
    return {name: jnp.asarray(x, kinds[name]) for name, x in columns.items()}, size


def _plain(value: Any) -> Any:
    return value if isinstance(value, complex) else float(value)


def _default_score(family, key: PRNGKeyArray) -> AbstractScore:
    problem = eqx.filter_eval_shape(family, key)
    if len(eqx.filter_eval_shape(problem.init, key)) == 1:
        return TrailingLoss()
    if type(problem).distances is AbstractProblem.distances:
        raise ValueError(
            f"`{type(problem).__name__}` has several players and does not know its solutions, so say what is to be "
            "made small, for example `score=nestax.measures.CostToTolerance(1e-4)`."
        )
    return TailDistance()
