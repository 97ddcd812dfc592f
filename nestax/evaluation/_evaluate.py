"""Optimizers compared on a problem from the same initial points, with the same minibatches, at equal steps and time."""

import dataclasses
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from .._optax import AnyOptimizer, as_optimizer
from .._problem import AbstractProblem
from .._progress import progress_bar
from .._rollout import rollout
from .._solve import solve, stack_samples, start
from .._step import OptimizerStep
from .._version import __version__
from ..measures import trailing_window


@dataclasses.dataclass(frozen=True)
class Curve:
    """One optimizer's runs.

    - `losses`: loss before every step, shape `(seeds, steps)`; NaN from a failure on.
    - `gradients`: joint gradients evaluated up to and including each step, shape `(steps,)`.
    - `seconds_per_step`: wall-clock of one step of a single run, after compilation, on this machine.
    """

    losses: Float[np.ndarray, "seeds steps"]
    gradients: Int[np.ndarray, " steps"]
    seconds_per_step: float

    def log_loss(self, step: int) -> tuple[float, float, float]:
        """Mean over seeds of the natural logarithm of the trailing loss at `step`, and its minimum and maximum.

        A run that failed before `step` makes them infinite.
        """
        values = score_at(self.losses, step)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(np.isfinite(values), np.log(values), np.inf)
        return float(logs.mean()), float(logs.min()), float(logs.max())


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns: a `Curve` per optimizer, and how they were obtained."""

    curves: dict[str, Curve]
    num_steps: int
    num_seeds: int
    problem: str

    def marks(self) -> list[int]:
        """Round numbers of steps, 1–2–5 per decade from 100, up to and including the last step."""
        rounds = [m * 10**d for d in range(2, 9) for m in (1, 2, 5)]
        return sorted({m for m in rounds if m < self.num_steps} | {self.num_steps})

    def to_json(self) -> dict[str, Any]:
        """Everything that the table and the plot show, as JSON values; non-finite numbers become `None`."""
        grid = plot_steps(self.num_steps)
        return {
            "problem": self.problem,
            "num_steps": self.num_steps,
            "num_seeds": self.num_seeds,
            "version": __version__,
            "device": device_name(),
            "score": "natural logarithm of the mean loss over the last fifth of the run, at most 100 steps",
            "steps": [int(s) for s in grid],
            "optimizers": {
                name: {
                    "seconds_per_step": curve.seconds_per_step,
                    "gradients_per_step": float(curve.gradients[-1] / self.num_steps),
                    "log_loss": {str(m): _finite(curve.log_loss(m)) for m in self.marks()},
                    "curve": [_finite(curve.log_loss(int(s))) for s in grid],
                }
                for name, curve in self.curves.items()
            },
        }


def score_at(losses: Float[np.ndarray, "... steps"], step: int) -> Float[np.ndarray, "..."]:
    """The mean of the losses in the trailing window before `step`."""
    return losses[..., step - trailing_window(step) : step].mean(axis=-1)


def _finite(values: Sequence[float]) -> list[float | None]:
    return [round(v, 4) if np.isfinite(v) else None for v in values]


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
    problem: AbstractProblem,
    optimizers: Mapping[str, AnyOptimizer],
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_seeds: int = 5,
    progress: bool = False,
) -> Evaluation:
    """Runs every optimizer on `problem` from the same `num_seeds` initial points with the same samples.

    **Arguments:**

    - `problem`: a problem with one player.
    - `optimizers`: by the names under which they are reported.
    - `num_steps`: updates per run.
    - `key`: fixes the seeds.
    - `num_seeds`: runs per optimizer; all seeds of an optimizer run at once (`vmap`). Default 5.
    - `progress`: show a progress bar.

    A run that becomes non-finite is reported as such and does not stop the others.

    **Returns** an `Evaluation`.
    """
    if not optimizers:
        raise ValueError("Give at least one optimizer to evaluate.")
    if num_seeds < 1:
        raise ValueError(f"`num_seeds` must be at least 1, got {num_seeds}.")
    optimizers = {name: as_optimizer(o, f"optimizers[{name!r}]") for name, o in optimizers.items()}
    keys = jax.random.split(key, num_seeds)
    curves = {}
    with progress_bar(len(optimizers), "evaluate", progress) as report:
        for i, (name, optimizer) in enumerate(optimizers.items()):
            report(i, lambda name=name: name)
            runs = jax.vmap(lambda k, o=optimizer: solve(problem, o, num_steps=num_steps, key=k, throw=False).info)(
                keys
            )
            losses = np.asarray(runs.losses[..., 0], np.float64)
            updates = optimizer.updates_per_step
            curves[name] = Curve(
                losses,
                np.repeat(np.asarray(runs.cost.gradients).max(axis=0), updates).cumsum() // updates,
                seconds_per_step(problem, optimizer, key),
            )
    return Evaluation(curves, num_steps, num_seeds, type(problem).__name__)


def seconds_per_step(problem: AbstractProblem, optimizer: AnyOptimizer, key: PRNGKeyArray, num: int = 100) -> float:
    """Wall-clock seconds per update of one run, compilation excluded: the better of two timings of `num` steps."""
    optimizer = as_optimizer(optimizer)
    players, state, _ = start(problem, optimizer, None, None, key)
    carry = (players, state)
    xs = stack_samples(problem, key, num, optimizer.samples_per_step)
    step, times = OptimizerStep(problem, optimizer), []
    for _ in range(3):
        started = time.perf_counter()
        out = rollout(step, carry, xs, num_steps=num, throw=False)
        jax.block_until_ready(eqx.filter(out.carry, eqx.is_array))
        times.append(time.perf_counter() - started)
    return min(times[1:]) / (num * optimizer.updates_per_step)
