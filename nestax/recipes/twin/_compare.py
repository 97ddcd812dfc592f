"""Shared parts of the comparisons of learned with classical game optimizers: training, tuning, runs, summaries."""

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
from .. import Trial, lines
from ._seesaw import for_run, settings

NAMES = {
    "gda": "GDA",
    "alternating-gda": "GDA in turns",
    "ogda": "OGDA",
    "extragradient": "extragradient",
    "anchoring": "GDA with anchoring",
    "k-beam": "K-beam, K = 5",
    "halpern": "Halpern",
    "swap": "swap rule, no learning",
    "twin": "TwinLSTM",
    "krylov": "TwinKrylov",
    "safe-krylov": "TwinKrylov, safeguarded",
    "published": "Twin-L2O, released variant",
    "safe-published": "Twin-L2O, safeguarded",
}


def draw(make: Callable[..., AbstractProblem], num: int, seed: int) -> AbstractProblem:
    """A batch of games, in the precision that is enabled."""
    return jax.vmap(make)(jax.random.split(jax.random.key(seed), num))


def thin(values: tuple[float, ...], num: int | None) -> tuple[float, ...]:
    """At most so many of the values, evenly spread."""
    if num is None or len(values) <= num:
        return values
    return tuple(values[round(i * (len(values) - 1) / max(num - 1, 1))] for i in range(num))


def contest(
    make_game: Callable[..., AbstractProblem],
    contestant: AbstractOptimizer | tuple[Callable[..., AbstractOptimizer], Mapping[str, tuple[float, ...]]],
    tolerances: tuple[float, ...],
    seed: int,
    *,
    num_games: tuple[int, int],  # for tests and for validation
    num_points: int | None,  # of the grid, per hyperparameter; `None`: all
    num_steps: int,
    num_starts: int,
    **tuning: Any,
) -> dict[str, Any]:
    """An optimizer, or one with hyperparameters that are tuned on validation games, on test games, in float64.

    Its runs, summarized; the wall-clock of a step of a single one; the record of the search.
    """
    with jax.enable_x64(True):
        if isinstance(contestant, tuple):
            make, grid = contestant
            points = {name: thin(values, num_points) for name, values in grid.items()}
            validation, key = Instances(draw(make_game, num_games[1], seed + 1)), jax.random.key(seed + 2)
            found = evaluation.tune(validation, make, points, key=key, num_steps=num_steps, **tuning)
            optimizer = make(**found.best())
            record = {"tuned": {"best": found.best(), "at_edge": list(found.at_edge())}}
        else:
            optimizer, record = contestant, {}
        games, key = draw(make_game, num_games[0], seed), jax.random.key(seed + 3)
        optimizer = for_run(optimizer, num_steps)
        runs = evaluation.run_games(games, optimizer, key=key, num_steps=num_steps, num_starts=num_starts)
        one = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, games)
        seconds = evaluation.seconds_per_step(one, optimizer, key)
        return {**summarize(runs, tolerances), "seconds_per_step": seconds, **record}


def krylov_training(
    unroll: int, epochs: int, num_tasks: int, validation: meta.Validation, rate: float = 1e-3, alpha: float = 0.0
) -> dict[str, Any]:
    """The settings of a training of `TwinKrylov`, one unroll per epoch."""
    decaying = optax.cosine_decay_schedule(rate, epochs, alpha=alpha)
    return {
        "schedule": ((unroll, epochs),),
        "unroll": unroll,
        "num_tasks": num_tasks,
        "meta_loss": meta.RelativeLog(measures.SquaredGradientNorm()),
        "meta_optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decaying)),
        "validation": validation,
    }


def trained(
    trial: Trial, kind: str, sample: Callable, seed: int, epochs: int, num_tasks: int, num_runs: int, folder: Any
) -> learned.AbstractLearnedOptimizer:
    """`TwinLSTM` by its default recipe, or `TwinKrylov` as in `twin/beyond`, on fresh games in random units.

    With 0 epochs it is left as drawn.
    """
    key, krylov = jax.random.key(seed), kind == "krylov"
    # the differences of gradients that TwinKrylov lives on are rough in float32
    x64 = krylov or jax.config.jax_enable_x64
    with jax.enable_x64(x64):
        optimizer = (learned.TwinKrylov if krylov else learned.TwinLSTM)(key=key)
    if not epochs:
        return optimizer
    how = settings(meta.twin_training(), (100, epochs), num_tasks, 5, num_runs=num_runs, horizon=300)
    if krylov:
        score = measures.CostToTolerance(unit="steps", arrival="first")
        validation = dataclasses.replace(how["validation"], horizon=60, score=score)
        how |= krylov_training(40, epochs, max(num_tasks // 4, 1), validation)
    with jax.enable_x64(x64):
        tasks = meta.RandomGameScale(FromSampler(sample))
        run = meta.train(optimizer, tasks, key=key, run=folder, resume=True, progress=trial.progress, **how)
    return run.optimizer


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
        out["reach"][f"{tolerance:g}"] = {
            "share": np.mean(np.isfinite(reached)),
            "iterations": quantiles(reached),
            "gradients": quantiles(cost_at(runs.num_gradients, reached)),
            "resolvents": quantiles(cost_at(runs.num_resolvents, reached)),
        }
    return out


def quantiles(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The median and the 90th percentile, without interpolation, so that infinite values do no harm."""
    flat = np.sort(values, axis=None)
    return float(flat[math.ceil(0.5 * flat.size) - 1]), float(flat[math.ceil(0.9 * flat.size) - 1])


def both(values: list[float | None], form: str = ".0f", unit: float = 1.0) -> str:
    """Median and 90th percentile for a table; what is not reached is infinite."""
    return " / ".join("∞" if v is None else format(unit * v, form) for v in values)


def best_of(result: dict[str, Any]) -> str:
    """Tuned hyperparameters for a table, with a star at the edge of the grid."""
    tuned = result.get("tuned", {"best": {}, "at_edge": []})
    return ", ".join(f"{k} {v:g}{'*' if k in tuned['at_edge'] else ''}" for k, v in tuned["best"].items())


def distances(name: str, floor: float) -> Callable[..., dict[str, Any]]:
    """`pictures`: geometric means of the distance over iterations, by family of games and method."""

    def panel(methods: dict[str, Any]) -> dict[str, Any]:
        return {method: (r["times"], r["geometric_mean"]) for method, r in methods.items()}

    how: dict[str, Any] = {"labels": ("iterations", "distance to the saddle set, geometric mean"), "log": "xy"}
    return lambda _, metrics: {name: lines({k: panel(v) for k, v in metrics["results"].items()}, floor=floor, **how)}
