"""Optimizers compared on the same problems, from the same points, with the same samples, at equal cost."""

import dataclasses
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from .._family import AnyFamily, FixedProblem, as_family, draw_runs
from .._many import run_many
from .._mesh import Devices, fetch, resolve
from .._optax import AnyOptimizer, as_optimizer
from .._progress import progress_bar
from .._records import pieces
from .._solve import count_calls, solve
from .._version import __version__
from ..measures import trailing_window
from ._cost import clock, seconds_per_step
from ._tune import DRAWN


@dataclasses.dataclass(frozen=True)
class Summary:
    """Values of several problems, or of several runs of one, as two averages with 95 % intervals (by bootstrap)."""

    mean: float
    mean_interval: tuple[float, float]
    median: float
    median_interval: tuple[float, float]


def summarize(values: Float[np.ndarray, " values"]) -> Summary:
    """Mean and median of independent values, each with a 95 % percentile interval of 2,000 bootstrap samples, which
    are always the same ones. Infinite values are allowed."""
    index = np.random.default_rng(0).integers(0, values.size, (2_000, values.size))

    def of(statistic):
        with np.errstate(invalid="ignore"):
            ends = np.percentile(statistic(values[index], axis=1), (2.5, 97.5), method="nearest")
            return float(statistic(values, axis=0)), (float(ends[0]), float(ends[1]))

    return Summary(*of(np.mean), *of(np.median))


@dataclasses.dataclass(frozen=True)
class Curve:
    """One optimizer's runs.

    - `losses`: loss before every step, shape `(runs, steps)`; NaN from a failure on. Runs of one problem are next to
      each other.
    - `gradients`: joint gradients evaluated up to and including each step, shape `(steps,)`.
    - `seconds_per_step`: of one step of a single run, after compilation, on this machine: `seconds_per_step`.
    - `batched_seconds_per_step`: the same, per run, where all runs go on at once (`vmap`): one timing of this process.
    - `num_problems`: how many problems the runs are of.
    """

    losses: Float[np.ndarray, "runs steps"]
    gradients: Int[np.ndarray, " steps"]
    seconds_per_step: float
    batched_seconds_per_step: float = math.nan
    num_problems: int = 1

    def _logs(self, step: int) -> Float[np.ndarray, " runs"]:
        values = score_at(self.losses, step)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isfinite(values), np.log(values), np.inf)

    def log_loss(self, step: int) -> tuple[float, float, float]:
        """Mean over runs of the natural logarithm of the trailing loss at `step`, and its minimum and maximum.

        A run that failed before `step` makes them infinite.
        """
        logs = self._logs(step)
        return float(logs.mean()), float(logs.min()), float(logs.max())

    def summary(self, step: int) -> Summary:
        """The natural logarithm of the trailing loss at `step`, over problems (each the mean of its runs), or of a
        single problem over its runs."""
        logs = self._logs(step)
        return summarize(logs.reshape(self.num_problems, -1).mean(axis=1) if self.num_problems > 1 else logs)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns: a `Curve` per optimizer, and how they were obtained.

    - `num_seeds`: runs per problem.
    """

    curves: dict[str, Curve]
    num_steps: int
    num_seeds: int
    problem: str
    num_problems: int = 1

    def marks(self) -> list[int]:
        """Round numbers of steps, 1–2–5 per decade from 100, up to and including the last step."""
        rounds = [m * 10**d for d in range(2, 9) for m in (1, 2, 5)]
        return sorted({m for m in rounds if m < self.num_steps} | {self.num_steps})

    def budgets(self) -> dict[str, float]:
        """What all steps of the cheapest optimizer cost: `"gradients"`, `"seconds"` of a single run, and
        `"batched_seconds"` of a run among all of them. At these budgets all can be compared. An optimizer all of
        whose runs failed sets no budget."""
        curves = [c for c in self.curves.values() if np.isfinite(c.losses[:, -1]).any()] or list(self.curves.values())
        return {
            "gradients": float(min(curve.gradients[-1] for curve in curves)),
            "seconds": self.num_steps * min(curve.seconds_per_step for curve in curves),
            "batched_seconds": self.num_steps * min(curve.batched_seconds_per_step for curve in curves),
        }

    def steps_within(self, name: str, unit: str) -> int:
        """How many steps of the optimizer `name` the budget in this unit pays for; at least one."""
        budget, curve = self.budgets()[unit], self.curves[name]
        if unit == "gradients":
            return max(int(np.searchsorted(curve.gradients, budget, side="right")), 1)
        cost = curve.seconds_per_step if unit == "seconds" else curve.batched_seconds_per_step
        return min(max(math.floor(budget / cost * (1 + 1e-9)), 1), self.num_steps) if cost > 0 else self.num_steps

    def to_json(self) -> dict[str, Any]:
        """Everything that the table and the plot show, as JSON values; non-finite numbers become `None`."""
        grid = plot_steps(self.num_steps)
        return {
            "problem": self.problem,
            "num_steps": self.num_steps,
            "num_problems": self.num_problems,
            "num_seeds": self.num_seeds,
            "version": __version__,
            "device": device_name(),
            "score": "natural logarithm of the mean loss over the last fifth of the run, at most 100 steps",
            "budgets": {unit: budget if np.isfinite(budget) else None for unit, budget in self.budgets().items()},
            "steps": [int(s) for s in grid],
            "optimizers": {
                name: {
                    "seconds_per_step": curve.seconds_per_step,
                    "batched_seconds_per_step": _finite([curve.batched_seconds_per_step], 12)[0],
                    "gradients_per_step": float(curve.gradients[-1] / self.num_steps),
                    "log_loss": {str(m): _finite(curve.log_loss(m)) for m in self.marks()},
                    "summary": {str(m): _summary_json(curve.summary(m)) for m in self.marks()},
                    "equal": {
                        unit: {"steps": step, **_summary_json(curve.summary(step))}
                        for unit in self.budgets()
                        for step in [self.steps_within(name, unit)]
                    },
                    "curve": [_finite(curve.log_loss(int(s))) for s in grid],
                }
                for name, curve in self.curves.items()
            },
        }


def _summary_json(summary: Summary) -> dict[str, Any]:
    mean = _finite([summary.mean, *summary.mean_interval])
    return {"mean": mean, "median": _finite([summary.median, *summary.median_interval])}


def score_at(losses: Float[np.ndarray, "... steps"], step: int) -> Float[np.ndarray, "..."]:
    """The mean of the losses in the trailing window before `step`."""
    return losses[..., step - trailing_window(step) : step].mean(axis=-1)


def _finite(values: Sequence[float], digits: int = 4) -> list[float | None]:
    return [round(v, digits) if np.isfinite(v) else None for v in values]


def plot_steps(num_steps: int) -> Int[np.ndarray, " points"]:
    """At most 100 numbers of steps, evenly spaced on a logarithmic axis."""
    return np.unique(np.geomspace(1, num_steps, min(100, num_steps)).round().astype(int))


def device_name() -> str:
    """The device that computations run on, in words; for a CPU with the number of cores that this process may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} CPU, {cores} core{'' if cores == 1 else 's'}"


def evaluate(
    problem: AnyFamily,
    optimizers: Mapping[str, AnyOptimizer],
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_problems: int | None = None,
    num_seeds: int | None = None,
    mesh: Devices = None,
    progress: bool = False,
) -> Evaluation:
    """Runs every optimizer on the same problems, from the same initial points, with the same samples.

    **Arguments:**

    - `problem`: a problem with one player, or a family of them: an `AbstractFamily`, or a function from a PRNG key to a
      problem.
    - `optimizers`: by the names under which they are reported.
    - `num_steps`: updates per run.
    - `key`: fixes problems, initial points and samples.
    - `num_problems`: how many problems; default: all of a finite family, 32 of an endless one.
    - `num_seeds`: runs per problem. Default 5 for a single problem, else 1. All runs of an optimizer go on at once
      (`vmap`).
    - `mesh`: which devices share the runs: a number of devices, or a `jax.sharding.Mesh`; where they do not divide the
      runs, the last one is made again to fill up, and dropped. Default `None`: all devices of this process where they
      divide the runs, else one.
    - `progress`: show a progress bar.

    A run that becomes non-finite is reported as such and does not stop the others.

    **Returns** an `Evaluation`.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> def quadratic(key):
    ...     return nx.problems.random_quadratic(key, dim=3, condition_number=10.0)
    >>> contestants = {"adam": nx.optimizers.adam(0.1), "momentum": nx.optimizers.momentum(0.1)}
    >>> evaluation = nx.evaluation.evaluate(quadratic, contestants, num_steps=50, key=jax.random.key(0), num_problems=8)
    >>> evaluation.curves["adam"].losses.shape
    (8, 50)

    ```
    """
    if not optimizers:
        raise ValueError("Give at least one optimizer to evaluate.")
    family = as_family(problem, "problem")
    if num_seeds is None:
        num_seeds = 5 if family.num == 1 else 1
    optimizers = {name: as_optimizer(o, f"optimizers[{name!r}]") for name, o in optimizers.items()}
    choices, keys, num_problems = draw_runs(family, num_problems, num_seeds, key, DRAWN)
    first = eqx.filter_jit(_problem_of)(family, jax.tree.map(lambda x: x[0], choices))
    devices, curves = resolve(mesh, keys.size), {}
    with progress_bar(len(optimizers), "evaluate", progress) as report:
        for i, (name, optimizer) in enumerate(optimizers.items()):
            report(i, lambda name=name: name)
            runs = fetch(run_many(solve, family, optimizer, choices, keys, devices, num_steps=num_steps).info)
            updates = optimizer.updates_per_step
            curves[name] = Curve(
                runs.losses[..., 0].astype(np.float64),
                np.repeat(runs.cost.gradients.max(axis=0), updates).cumsum() // updates,
                math.nan,  # measured below, in turns
                _batched_seconds_per_step(family, optimizer, choices, keys, num_steps, devices),
                num_problems,
            )
    for name, seconds in seconds_per_step(first, optimizers, key=key).items():
        curves[name] = dataclasses.replace(curves[name], seconds_per_step=seconds)
    described = family.problem if isinstance(family, FixedProblem) else problem
    name = getattr(described, "__name__", type(described).__name__)
    return Evaluation(curves, num_steps, num_seeds, name, num_problems)


def _problem_of(family, choice):
    return family.get(choice)


def _batched_seconds_per_step(family, optimizer, choices, keys, num_steps: int, mesh) -> float:
    """Of a program that has just been compiled: the whole run, or its first chunk."""
    num = next(iter(pieces(count_calls(optimizer, num_steps), 1, None))) * optimizer.updates_per_step
    started = clock()
    jax.block_until_ready(run_many(solve, family, optimizer, choices, keys, mesh, num_steps=num).info)
    return (clock() - started) / (num * keys.size)
