"""Shared parts of the recipes on Seesaw: training by variant, the test set, success rates and their table cells."""

import dataclasses
import json
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

PAPER: dict[str, tuple[tuple[float | int, float | int], ...]] = {
    "paper, Twin": ((100, 100), (96.6, 89.6), (0, 17.4), (0, 16.0), (97.8, 96.2), (11.6, 31.4), (22.8, 71.6)),
    "paper, Enhanced": ((100, 100), (96.6, 96.0), (64.8, 87.8), (82.8, 91.2), (98.0, 97.4), (85.0, 86.2), (62.6, 53.8)),
}
"""Table 1 of Shen et al. (2021): SR1 and SR2 in percent on the ranges 1 to 7."""


def as_json(protocol: Any) -> dict[str, Any]:
    """A protocol as it comes back from a file, to compare with one."""
    return json.loads(json.dumps(dataclasses.asdict(protocol)))


def seesaw(number: int) -> FromSampler:
    """Fresh Seesaw problems of one of the seven ranges. The intervals are arrays, so that all share a compilation."""
    intervals = {name: jnp.asarray(interval, float) for name, interval in catalogue.SEESAW_RANGES[number].items()}
    return FromSampler(problems.Seesaw.random, **intervals)


def test_runs(
    optimizer: AbstractOptimizer, number: int, num_instances: int, num_starts: int, num_steps: int, seed: int
) -> GameRuns:
    """Runs on the test instances of a range: the same ones, from the same starts, for every optimizer."""
    instance_key, start_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1_000 + number))
    games = jax.vmap(seesaw(number))(jax.random.split(instance_key, num_instances))
    optimizer = for_run(optimizer, num_steps)
    return run_games(games, optimizer, num_steps=num_steps, key=start_key, num_starts=num_starts)


def for_run(optimizer: AbstractOptimizer, num_steps: int) -> AbstractOptimizer:
    """The optimizer for runs of so many steps: the warm-up of the released rule is a fraction of a run."""
    if not isinstance(optimizer, learned.TwinLSTM) or not isinstance(optimizer.rule, learned.ReleasedRule):
        return optimizer
    return eqx.tree_at(lambda o: o.rule.horizon, optimizer, jnp.asarray(num_steps, float))


def rates(runs: GameRuns) -> dict[str, Any]:
    """SR1 and SR2 in percent with intervals, per player too; the largest coordinate; JSON values."""
    success = success_rates(runs.distances, runs.magnitudes)
    out: dict[str, Any] = {"largest": float(runs.magnitudes.max())}
    for name, of in (("sr1", success.accuracy_rate), ("sr2", success.stability_rate)):
        for which, rate in of.items():
            key = name if which == "joint" else f"{name}_{which}"
            out[key] = round(100 * rate.rate, 4)
            if which == "joint":
                out[f"{name}_interval"] = [round(100 * end, 2) for end in rate.interval]
    return out


def train_twin(
    variant: str,
    tasks: AbstractFamily,
    seed: int,
    settings: Mapping[str, Any],
    folder: Path,
    progress: bool = False,
    **changes: Any,
) -> meta.MetaTraining:
    """A `TwinLSTM` in a published variant, with `changes` of its arguments, trained with these settings."""
    arguments = {**learned.PRESETS[variant].arguments, **changes}
    optimizer = learned.TwinLSTM(**arguments, key=jax.random.key(seed))
    return meta.train(
        optimizer, tasks, key=jax.random.key(seed), run=folder, resume=True, progress=progress, **settings
    )


def fixed_instances(number: int, num: int, seed: int) -> Instances:
    """The training instances of a published variant: drawn once per seed."""
    return Instances.draw(seesaw(number), num, jax.random.fold_in(jax.random.key(seed), 2_000 + number))


def cell(values: Mapping[str, Any] | tuple[float | int, float | int]) -> str:
    """`SR1/SR2`, as printed."""
    first, second = (values["sr1"], values["sr2"]) if isinstance(values, Mapping) else values
    return f"{first:g}/{second:g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
