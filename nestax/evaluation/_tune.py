"""Learning rates of classical optimizers by grid search, the whole grid in one compiled call."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem
from .._solve import solve
from ..optimizers import adagrad, adam, momentum, nesterov, rmsprop, sgd

Make = Callable[[float | Float[Array, ""]], AbstractOptimizer]

# name: (optimizer of a learning rate, grid of half-decades wide enough for networks initialized near zero)
CLASSICAL: dict[str, tuple[Make, tuple[float, ...]]] = {
    "sgd": (sgd, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "momentum": (momentum, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "nesterov": (nesterov, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "adam": (adam, (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)),
    "rmsprop": (rmsprop, (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)),
    "adagrad": (adagrad, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
}


def trailing_window(step: int) -> int:
    """Over how many of the latest losses a score at `step` is averaged: the last fifth of the run, at most 100."""
    return max(1, min(100, step // 5))


def score_at(losses: Float[np.ndarray, "... steps"], step: int) -> Float[np.ndarray, "..."]:
    """The mean of the losses in the trailing window before `step`."""
    return losses[..., step - trailing_window(step) : step].mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A finished grid search.

    - `learning_rates`: the grid, shape `(rates,)`.
    - `marks`: numbers of steps at which the runs were scored.
    - `scores`: mean over seeds of the trailing loss, shape `(rates, marks)`; infinite where a run was not finite.
    """

    learning_rates: tuple[float, ...]
    marks: tuple[int, ...]
    scores: Float[np.ndarray, "rates marks"]

    def best(self, mark: int | None = None) -> float:
        """The learning rate with the smallest score at `mark` (default: the last)."""
        column = self.marks.index(self.marks[-1] if mark is None else mark)
        if not np.isfinite(self.scores[:, column]).any():
            raise ValueError(
                f"Every learning rate of the grid {self.learning_rates} diverged. Give a grid of smaller ones."
            )
        return self.learning_rates[int(np.argmin(self.scores[:, column]))]

    def at_edge(self, mark: int | None = None) -> bool:
        """Whether the best rate is the smallest or largest of the grid, so that a wider grid may hold a better one."""
        return len(self.learning_rates) > 1 and self.best(mark) in (min(self.learning_rates), max(self.learning_rates))


def tune(
    problem: AbstractProblem,
    make: Make,
    learning_rates: Sequence[float],
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_seeds: int = 3,
    marks: Sequence[int] | None = None,
) -> Tuning:
    """Runs `make(learning_rate)` for every learning rate and seed at once, and scores the runs.

    **Arguments:**

    - `problem`: the problem; its random parts vary with the seed.
    - `make`: an optimizer as a function of its learning rate, such as `nestax.optimizers.adam`.
    - `learning_rates`: the grid.
    - `num_steps`: length of the runs.
    - `key`: fixes the seeds. Use another key than for the evaluation: never tune on the test instances.
    - `num_seeds`: default 3.
    - `marks`: score at these numbers of steps; default only at the end.

    **Returns** a `Tuning`.
    """
    marks = (num_steps,) if marks is None else tuple(sorted(marks))
    if not len(learning_rates) or not marks or marks[0] < 1 or marks[-1] > num_steps:
        raise ValueError(
            f"Need a non-empty grid and marks between 1 and {num_steps}, got {learning_rates} and {marks}."
        )

    def run(learning_rate, key):
        return solve(problem, make(learning_rate), num_steps=num_steps, key=key, throw=False).losses[:, 0]

    grid = jnp.asarray(learning_rates, float)
    keys = jax.random.split(key, num_seeds)
    losses = np.asarray(jax.vmap(jax.vmap(run, (None, 0)), (0, None))(grid, keys), np.float64)
    scores = np.stack([score_at(losses, mark).mean(axis=1) for mark in marks], axis=1)
    return Tuning(tuple(map(float, learning_rates)), marks, np.where(np.isfinite(scores), scores, np.inf))
