"""Meta-trainings, and long runs that are looked at on the way, inside recipes."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jaxtyping import PRNGKeyArray

from .. import learned, meta
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players
from .._solve import Solution, solve
from ._recipe import Trial


@dataclasses.dataclass(frozen=True)
class Training:
    """How one learned optimizer is meta-trained."""

    preset: str  # a published variant
    schedule: tuple[tuple[int, int], ...]  # stages (steps per trajectory, trajectories)
    unroll: int = 20  # steps per truncation, as published
    validate_every: int | None = None  # trajectories between validations, which choose the weights; `None`: the last
    validation_runs: int = 10  # trajectories per validation
    clip: float | None = None  # global norm of the meta-gradient
    num_seeds: int = 1  # independent trainings


def train(
    how: Mapping[str, Any], problem: AbstractProblem, seed: int, folder: Path
) -> tuple[learned.AbstractLearnedOptimizer, dict[str, Any]]:
    """The meta-training with the settings `how` (a `Training`), resumed if it was interrupted, and numbers on it."""
    every, adam = how["validate_every"], optax.adam(1e-3)
    training = meta.train(
        learned.preset(how["preset"], key=jax.random.key(seed)),
        problem,
        key=jax.random.key(seed),
        schedule=tuple(map(tuple, how["schedule"])),
        unroll=how["unroll"],
        meta_optimizer=adam if how["clip"] is None else optax.chain(optax.clip_by_global_norm(how["clip"]), adam),
        validation=None if every is None else meta.Validation(every=every, num_runs=how["validation_runs"]),
        run=folder,
        resume=True,
    )
    return training.optimizer, numbers(training)


def numbers(training: meta.MetaTraining) -> dict[str, Any]:
    """What a recipe records of a meta-training."""
    validations = [(r["validation"], r["epoch"] + 1) for r in training.history if r.get("validation") is not None]
    best = dict(zip(("best_validation", "best_epoch"), min(validations))) if validations else {}
    return {
        "epochs": len(training.history),
        "seconds": sum(r["seconds"] for r in training.history),
        "last_loss": training.history[-1]["final_loss"],
        "skipped_updates": training.num_skipped,
        **best,
    }


def shared_seed(trial: Trial) -> int:
    """A seed that all repetitions of a run of the recipe share."""
    return trial.seed - trial.repetition


def in_parts(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    num_steps: int,
    num_parts: int,
    key: PRNGKeyArray,
    *,
    players: Players | None = None,
    record_every: int | None = None,
) -> Iterator[Solution]:
    """The solution after each of `num_parts` equal parts of a run, failed or not; a part has a key of its own.

    A `callback` of one `solve` sees the same iterates only where the problem has no samples: it draws all of them from
    one key, and the recorded results were drawn by parts.
    """
    size, state = num_steps // num_parts, None
    how: dict[str, Any] = {"num_steps": size, "record_every": record_every or size, "throw": False}
    for part in range(num_parts):
        solution = solve(problem, optimizer, key=jax.random.fold_in(key, part), players=players, state=state, **how)
        yield solution
        players, state = solution.players, solution.state
