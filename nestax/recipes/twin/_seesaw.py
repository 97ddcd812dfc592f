"""Shared parts of the recipes on Seesaw: training by variant, the test set, success rates and their table cells."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ... import catalogue, learned, meta, problems
from ..._family import AbstractFamily, FromSampler, Instances
from ..._optimizer import AbstractOptimizer
from ...evaluation import GameRuns, run_games
from ...measures import success_rates
from .. import Trial

PAPER: dict[str, tuple[tuple[float | int, float | int], ...]] = {
    "paper, Twin": ((100, 100), (96.6, 89.6), (0, 17.4), (0, 16.0), (97.8, 96.2), (11.6, 31.4), (22.8, 71.6)),
    "paper, Enhanced": ((100, 100), (96.6, 96.0), (64.8, 87.8), (82.8, 91.2), (98.0, 97.4), (85.0, 86.2), (62.6, 53.8)),
}
"""Table 1 of Shen et al. (2021): SR1 and SR2 in percent on the ranges 1 to 7."""


def seesaw(number: int) -> FromSampler:
    """Fresh Seesaw problems of one of the seven ranges. The intervals are arrays, so that all share a compilation."""
    intervals = {name: jnp.asarray(interval, float) for name, interval in catalogue.SEESAW_RANGES[number].items()}
    return FromSampler(problems.Seesaw.random, **intervals)


def test_runs(optimizer: AbstractOptimizer, number: int, protocol: Any, seed: int) -> GameRuns:
    """Runs on the test instances of a range: the same ones, from the same starts, for every optimizer.

    The `protocol` has `num_instances`, `num_starts` and `num_steps`.
    """
    instance_key, start_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1_000 + number))
    games = jax.vmap(seesaw(number))(jax.random.split(instance_key, protocol.num_instances))
    optimizer = for_run(optimizer, protocol.num_steps)
    return run_games(games, optimizer, num_steps=protocol.num_steps, key=start_key, num_starts=protocol.num_starts)


def for_run(optimizer: AbstractOptimizer, num_steps: int) -> AbstractOptimizer:
    """The optimizer for runs of so many steps: the warm-up of the released rule is a fraction of a run."""
    if not isinstance(optimizer, learned.TwinLSTM) or not isinstance(optimizer.rule, learned.ReleasedRule):
        return optimizer
    return eqx.tree_at(lambda o: o.rule.horizon, optimizer, jnp.asarray(num_steps, float))


def rates(runs: GameRuns) -> dict[str, Any]:
    """SR1 and SR2 in percent with intervals, per player too; the largest coordinate."""
    success = success_rates(runs.distances, runs.magnitudes)
    out: dict[str, Any] = {"largest": runs.magnitudes.max()}
    for name, of in (("sr1", success.accuracy_rate), ("sr2", success.stability_rate)):
        out |= {name if which == "joint" else f"{name}_{which}": 100 * rate.rate for which, rate in of.items()}
        out[f"{name}_interval"] = [round(100 * end, 2) for end in of["joint"].interval]
    return out


def settings(
    preset: dict[str, Any], schedule: tuple[int, int], num_tasks: int, every: int, **validation: Any
) -> dict[str, Any]:
    """Published settings of a training with another schedule (steps, epochs), number of tasks, and validation."""
    changed = dataclasses.replace(preset["validation"], every=min(every, schedule[1]), **validation)
    return preset | {"schedule": (schedule,), "num_tasks": num_tasks, "validation": changed}


def train_twin(
    trial: Trial, variant: str, tasks: AbstractFamily, seed: int, how: Mapping[str, Any], folder: Path, **changes: Any
) -> meta.MetaTraining:
    """A `TwinLSTM` in a published variant, with `changes` of its arguments, trained with these settings."""
    key = jax.random.key(seed)
    optimizer = learned.TwinLSTM(**{**learned.PRESETS[variant].arguments, **changes}, key=key)
    return meta.train(optimizer, tasks, key=key, run=folder, resume=True, progress=trial.progress, **how)


def fixed_instances(number: int, num: int, seed: int) -> Instances:
    """The training instances of a published variant: drawn once per seed."""
    return Instances.draw(seesaw(number), num, jax.random.fold_in(jax.random.key(seed), 2_000 + number))


def cell(values: Mapping[str, Any] | tuple[float | int, float | int]) -> str:
    """`SR1/SR2`, as printed."""
    first, second = (values["sr1"], values["sr2"]) if isinstance(values, Mapping) else values
    return f"{first:g}/{second:g}"
