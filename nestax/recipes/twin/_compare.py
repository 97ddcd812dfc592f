"""Shared parts of the comparisons of learned with classical game optimizers: games, tuning, training, summaries."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Float

from ... import evaluation, learned, measures, meta
from ..._family import FromSampler, Instances
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ...evaluation import GameRuns
from ...measures import cost_at, first_below, success_rates, tail
from .._recipe import Trial
from ._seesaw import for_run, settings


def draw(make: Callable[..., AbstractProblem], num: int, seed: int) -> AbstractProblem:
    """A batch of games, in the precision that is enabled."""
    return jax.vmap(make)(jax.random.split(jax.random.key(seed), num))


def thin(values: tuple[float, ...], num: int | None) -> tuple[float, ...]:
    """At most so many of the values, evenly spread."""
    if num is None or len(values) <= num:
        return values
    return tuple(values[round(i * (len(values) - 1) / max(num - 1, 1))] for i in range(num))


def tuned(
    make: Callable[..., Any],
    grid: Mapping[str, tuple[float, ...]],
    games: AbstractProblem,
    num_points: int | None,
    *,
    seed: int,
    **how: Any,
) -> tuple[AbstractOptimizer, dict[str, Any]]:
    """The optimizer at the best point of a thinned grid on validation games, and the record of the search."""
    points = {name: thin(values, num_points) for name, values in grid.items()}
    found = evaluation.tune(Instances(games), make, points, key=jax.random.key(seed), **how)
    return make(**found.best()), {"best": found.best(), "at_edge": list(found.at_edge())}


def trained(
    trial: Trial, kind: str, sample: Callable, seed: int, epochs: int, num_tasks: int, num_runs: int, folder: Any
) -> learned.AbstractLearnedOptimizer:
    """`TwinLSTM` by its default recipe, or `TwinKrylov` as in `twin/beyond`, on fresh games in random units."""
    key, krylov = jax.random.key(seed), kind == "krylov"
    how = settings(meta.twin_training(), (100, epochs), num_tasks, 5, num_runs=num_runs, horizon=300)
    if krylov:
        score = measures.CostToTolerance(unit="steps", arrival="first")
        rate = optax.cosine_decay_schedule(1e-3, epochs)
        how |= {
            "schedule": ((40, epochs),),
            "unroll": 40,
            "num_tasks": max(num_tasks // 4, 1),
            "meta_optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
            "meta_loss": meta.RelativeLog(measures.SquaredGradientNorm()),
            "validation": dataclasses.replace(how["validation"], horizon=60, score=score),
        }
    # the differences of gradients that TwinKrylov lives on are rough in float32
    with jax.enable_x64(krylov or jax.config.jax_enable_x64):
        optimizer = (learned.TwinKrylov if krylov else learned.TwinLSTM)(key=key)
        tasks = meta.RandomGameScale(FromSampler(sample))
        run = meta.train(optimizer, tasks, key=key, run=folder, resume=True, progress=trial.progress, **how)
    return run.optimizer


def measure_on(
    games: AbstractProblem, optimizer: AbstractOptimizer, tolerances: tuple[float, ...], *, seed: int, **how: Any
) -> dict[str, Any]:
    """Runs on test games, summarized, with the wall-clock of a step of a single run."""
    optimizer, key = for_run(optimizer, how["num_steps"]), jax.random.key(seed)
    runs = evaluation.run_games(games, optimizer, key=key, **how)
    first = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, games)
    return {**summarize(runs, tolerances), "seconds_per_step": evaluation.seconds_per_step(first, optimizer, key)}


def summarize(runs: GameRuns, tolerances: tuple[float, ...]) -> dict[str, Any]:
    """Distances along the way, where they end, success rates, and the cost of getting there."""
    joint = runs.joint.reshape(-1, runs.joint.shape[-1])
    times = np.unique(np.geomspace(1, joint.shape[1] - 1, 60).round().astype(int))
    finite = np.where(np.isfinite(joint), joint, np.inf)
    end = tail(finite, 0.2).mean(axis=1)
    success = success_rates(runs.distances, runs.magnitudes)
    with np.errstate(divide="ignore", over="ignore"):
        geometric = np.exp(np.log(np.maximum(finite[:, times], 1e-300)).mean(axis=0))
    rates = {"sr1": success.accuracy_rate["joint"], "sr2": success.stability_rate["joint"]}
    out: dict[str, Any] = {
        "times": times,
        "geometric_mean": geometric,
        "tail_mean": end.mean(),
        "tail_median": np.median(end),
        "tail_geometric_mean": np.exp(np.log(np.maximum(end, 1e-300)).mean()),
        **{n: {"rate": 100 * r.rate, "interval": [round(100 * x, 2) for x in r.interval]} for n, r in rates.items()},
        "diverged": np.mean(~(finite[:, -1] <= finite[:, 0])),
        "reach": {},
    }
    if runs.info.aux is not None and hasattr(runs.info.aux, "accepted"):
        out["accepted"] = np.nanmean(np.asarray(runs.info.aux.accepted))
    for tolerance in tolerances:
        reached = first_below(runs.joint, tolerance)
        costs = {
            "iterations": reached,
            "gradients": cost_at(runs.num_gradients, reached),
            "resolvents": cost_at(runs.num_resolvents, reached),
        }
        found = {name: quantiles(cost) for name, cost in costs.items()}
        out["reach"][f"{tolerance:g}"] = {"share": np.mean(np.isfinite(reached)), **found}
    return out


def quantiles(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The median and the 90th percentile, without interpolation, so that infinite values do no harm."""
    flat = np.sort(values, axis=None)
    return float(flat[math.ceil(0.5 * flat.size) - 1]), float(flat[math.ceil(0.9 * flat.size) - 1])


def cells_of(values: list[float | None]) -> str:
    """Median and 90th percentile for a table; what is not reached is infinite."""
    return " / ".join("∞" if v is None else f"{v:.0f}" for v in values)


def best_of(result: dict[str, Any]) -> str:
    """Tuned hyperparameters for a table, with a star at the edge of the grid."""
    tuned = result.get("tuned", {"best": {}, "at_edge": []})
    return ", ".join(f"{k} {v:g}{'*' if k in tuned['at_edge'] else ''}" for k, v in tuned["best"].items())


def curves(results: dict[str, Any]) -> dict[str, Any]:
    """Panels for `lines`: geometric means of the distance over iterations, by family of games and method."""
    return {
        family: {method: (r["times"], r["geometric_mean"]) for method, r in methods.items()}
        for family, methods in results.items()
    }
