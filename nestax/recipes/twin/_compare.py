"""Shared parts of the comparisons of learned with classical game optimizers: training, tuning, runs, summaries."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax

from ... import evaluation, learned, measures, meta
from ..._family import FromSampler, Instances
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from .. import Metrics, Trial, lines, measured
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

    Its runs, summarized; the seconds of a step of a single one; the record of the search.
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
        seconds = evaluation.seconds_per_step(one, {"": optimizer}, key=key, num_steps=1_000)[""]
        return {**runs.summary(tolerances), "seconds_per_step": seconds, **record}


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
        how |= meta.krylov_training(epochs, floor=0.0) | {"num_tasks": max(num_tasks // 4, 1), "validation": validation}
    with jax.enable_x64(x64):
        tasks = meta.RandomGameScale(FromSampler(sample))
        run = meta.train(optimizer, tasks, key=key, run=folder, resume=True, progress=trial.progress, **how)
    return run.optimizer


def both(values: list[float | None], form: str = ".0f", unit: float = 1.0) -> str:
    """Median and 90th percentile for a table; what is not reached is infinite."""
    return " / ".join("∞" if v is None else format(unit * v, form) for v in values)


def tables(
    title: str, tolerances: tuple[float, ...], row: Callable[[dict[str, Any], Any, Any], dict[str, Any]]
) -> Callable[[Metrics], dict[str, Any]]:
    """`tables`: a line per method, `row` of its result and of what it took to both tolerances, by family of games."""

    def line(result: dict[str, Any]) -> dict[str, Any]:
        cost = {"µs/step": 1e6 * result["seconds_per_step"], "tuned": best_of(result)}
        return row(result, *(result["reach"][f"{t:g}"] for t in tolerances)) | cost

    def table(methods: dict[str, Any]) -> dict[str, Any]:
        return {NAMES[method]: line(result) for method, result in methods.items()}

    return lambda metrics: {f"{name}{title}": table(methods) for name, methods in metrics["results"].items()}


@measured
def reach(metrics: Metrics, game: str, tolerance: str, cost: str, *methods: str) -> list[float | None]:
    """The median cost of coming to stay within a distance on a family of games; `None` is never."""
    return [metrics["results"][game][method]["reach"][tolerance][cost][0] for method in methods]


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
