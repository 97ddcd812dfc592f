"""What the comparisons of learned with classical game optimizers share: games, tuning, measures, tables, plots."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import matplotlib.figure
import numpy as np
from jaxtyping import Float

from ... import evaluation, learned, meta
from ..._family import AbstractFamily, Instances
from ..._optax import AnyOptimizer
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ..._storage import save_figure
from ...evaluation import GameRuns
from ...measures import AbstractScore, Proportion, cost_at, first_below, success_rates, tail
from .._cache import cached
from ._seesaw import for_run


def draw(make: Callable[..., AbstractProblem], num: int, seed: int) -> AbstractProblem:
    """A batch of games, in the precision that is enabled."""
    return jax.vmap(make)(jax.random.split(jax.random.key(seed), num))


def tune(
    name: str,
    make: Callable[..., AnyOptimizer],
    grid: Mapping[str, tuple[float, ...]],
    games: AbstractProblem,
    path: Path,
    protocol: dict[str, Any],
    *,
    num_steps: int,
    seed: int,
    num_starts: int,
    score: AbstractScore | None = None,
) -> dict[str, Any]:
    """The best point of a grid on validation games, and which of its values are at an edge. Kept in a file."""

    def search() -> dict[str, Any]:
        found = evaluation.tune(
            Instances(games),
            make,
            grid,
            num_steps=num_steps,
            key=jax.random.key(seed),
            num_seeds=num_starts,
            score=score,
        )
        return {
            "best": found.best(),
            "at_edge": list(found.at_edge()),
            "score": round(float(found.mean_scores().min()), 6),
        }

    return cached(path / f"{name}.json", {**protocol, "grid": {k: list(v) for k, v in grid.items()}}, search)


def train(
    optimizer: learned.AbstractLearnedOptimizer,
    tasks: AbstractFamily,
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    progress: bool,
) -> learned.AbstractLearnedOptimizer:
    """Trained, or what an earlier call left in the folder."""
    key = jax.random.key(seed)
    return meta.train(optimizer, tasks, key=key, run=folder, resume=True, progress=progress, **settings).optimizer


def summarize(runs: GameRuns, tolerances: tuple[float, ...]) -> dict[str, Any]:
    """Runs as JSON values: distances along the way, where they end, success rates, and the cost of getting there."""
    joint = runs.joint.reshape(-1, runs.joint.shape[-1])
    times = np.unique(np.geomspace(1, joint.shape[1] - 1, 60).round().astype(int))
    finite = np.where(np.isfinite(joint), joint, np.inf)
    end = tail(finite, 0.2).mean(axis=1)
    success = success_rates(runs.distances, runs.magnitudes)
    with np.errstate(divide="ignore", over="ignore"):
        geometric = np.exp(np.log(np.maximum(finite[:, times], 1e-300)).mean(axis=0))
    out: dict[str, Any] = {
        "times": times.tolist(),
        "geometric_mean": _numbers(geometric),
        "mean": _numbers(finite[:, times].mean(axis=0)),
        "tail_mean": number(end.mean()),
        "tail_median": number(np.median(end)),
        "tail_geometric_mean": number(np.exp(np.log(np.maximum(end, 1e-300)).mean())),
        "sr1": rate_cell(success.accuracy_rate["joint"]),
        "sr2": rate_cell(success.stability_rate["joint"]),
        "diverged": round(float(np.mean(~(finite[:, -1] <= finite[:, 0]))), 6),
        "reach": {},
    }
    if runs.info.aux is not None and hasattr(runs.info.aux, "accepted"):
        used = np.asarray(runs.info.aux.accepted)
        out["accepted"] = round(float(np.nanmean(used)), 4)
    for tolerance in tolerances:
        reached = first_below(runs.joint, tolerance)
        costs = {"iterations": reached}
        costs["gradients"] = cost_at(runs.num_gradients, reached)
        costs["resolvents"] = cost_at(runs.num_resolvents, reached)
        out["reach"][f"{tolerance:g}"] = {
            "share": round(float(np.mean(np.isfinite(reached))), 6),
            **{name: [number(q) for q in quantiles(cost)] for name, cost in costs.items()},
        }
    return out


def quantiles(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The median and the 90th percentile, without interpolation, so that infinite values do no harm."""
    flat = np.sort(values, axis=None)
    return float(flat[math.ceil(0.5 * flat.size) - 1]), float(flat[math.ceil(0.9 * flat.size) - 1])


def rate_cell(rate: Proportion) -> dict[str, Any]:
    """In percent."""
    return {"rate": round(100 * rate.rate, 4), "interval": [round(100 * end, 2) for end in rate.interval]}


def number(value: float) -> float | None:
    """With five digits; `None` where it is not finite."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _numbers(values: Any) -> list[float | None]:
    return [number(v) for v in values]


def cell(value: float | None, form: str = ".3g") -> str:
    """A number for a table; an infinite one as such."""
    return "∞" if value is None else format(value, form)


def infinite(value: float | None) -> float:
    """`None` as infinity, to compare with."""
    return math.inf if value is None else value


def measure_on(
    games: AbstractProblem,
    optimizer: AbstractOptimizer,
    *,
    num_steps: int,
    num_starts: int,
    seed: int,
    tolerances: tuple[float, ...],
) -> dict[str, Any]:
    """Runs on test games, summarized, with the wall-clock of a step of a single run."""
    optimizer = for_run(optimizer, num_steps)
    key = jax.random.key(seed)
    runs = evaluation.run_games(games, optimizer, num_steps=num_steps, key=key, num_starts=num_starts)
    first = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, games)
    seconds = evaluation.seconds_per_step(first, optimizer, key)
    return {**summarize(runs, tolerances), "seconds_per_step": number(seconds)}


def plot(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Mapping[str, str], path: Path, floor: float = 1e-12
) -> None:
    """One panel per family of games: geometric means of the distance over iterations."""
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, methods) in zip(axes_row, panels.items()):
        for i, (name, result) in enumerate(methods.items()):
            values = np.array([np.nan if v is None else max(v, floor) for v in result["geometric_mean"]])
            axes.plot(result["times"], values, "-" if i < 10 else "--", label=names[name], linewidth=1.5)
        axes.set_title(title)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("iterations")
        axes.grid(True, which="major", alpha=0.3)
        axes.set_ylim(floor / 3, 1e2)
    axes_row[0].set_ylabel("distance to the saddle set, geometric mean")
    axes_row[0].legend(fontsize=7)
    save_figure(path, figure)
