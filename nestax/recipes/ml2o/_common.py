"""What the recipes on M-L2O share: optimizees, trainings, one repeat of one method, and paired differences."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import learned, meta, problems
from ..._family import AbstractFamily, FromSampler
from ...evaluation import AdaptationRun, run_adapted
from .._claims import Metrics
from .._recipe import Results, Trial
from .._tables import spread

METHODS = ("vanilla", "direct-transfer", "transfer-learning", "m-l2o")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The protocol that all recipes share."""

    schedule: tuple[tuple[int, int], ...] | None = ((100, 100), (500, 20))  # `None`: the published curriculum
    num_instances: int = 128  # problems per optimizee, of size 10 x 10, as released
    dim: int = 10
    unroll: int = 20  # steps per meta-update, as released
    rate: float = 1e-3  # of the inner step, as released
    order: Literal[1, 2] = 1  # as released
    query: Literal["same", "next"] = "next"  # as released
    max_coordinates: int | None = 256  # of 1,280 in the meta-gradients of the trainings; `None`: all of them
    adaptation_steps: int = 5  # as published
    num_steps: int = 1_000  # of the test runs, as released


LAPTOP = Setting()
SMOKE = Setting(((6, 1),), num_instances=3, dim=2, unroll=3, max_coordinates=None, adaptation_steps=1, num_steps=6)
PAPER = Setting(schedule=None, max_coordinates=None)


def optimizees(setting: Setting, kind: str, sigma: float = 1.0) -> AbstractFamily:
    """A distribution of optimizees: "train", "lasso", "quadratic" (both with A normal) or "rosenbrock"."""
    sizes = {"num_instances": setting.num_instances, "rows": setting.dim, "dim": setting.dim}
    if kind == "train":
        return FromSampler(problems.uniform_lasso, **sizes)
    if kind == "rosenbrock":
        return FromSampler(_rosenbrock, num_instances=setting.num_instances)
    sigma_array = jax.numpy.asarray(sigma, float)  # a leaf: all values share one program
    return FromSampler(problems.normal_lasso, sigma=sigma_array, l1=0.0 if kind == "quadratic" else 0.005, **sizes)


def _rosenbrock(key: Any, num_instances: int) -> problems.RosenbrockBatch:
    del key
    return problems.RosenbrockBatch(num_instances)


def start(trial: Trial, method: str, **changes: Any) -> learned.AbstractLearnedOptimizer:
    """The optimizer of a method before adaptation, for the repetition of a trial.

    All repetitions differ in everything random; the methods of one repetition start from the same weights and are
    trained on the same problems. `changes`: to the setting of the training.
    """
    setting: Setting = dataclasses.replace(trial.protocol.setting, **changes)
    untrained = learned.preset("rnnprop-m-l2o", key=jax.random.key(trial.seed))
    if method == "vanilla":
        return untrained
    plain = meta.CoordinateSum(setting.max_coordinates)
    estimator: meta.AbstractGradientEstimator = plain
    if method == "m-l2o":
        inner = plain if setting.order == 1 else meta.TruncatedBackprop()
        estimator = meta.AdaptedGradient(setting.rate, setting.order, setting.query, inner)
    changed = "".join(f"-{key}={value}" for key, value in changes.items())
    name = f"{'nested' if method == 'm-l2o' else 'plain'}{changed}-{trial.repetition}"

    def make(folder: Path) -> learned.AbstractLearnedOptimizer:
        return meta.train(
            untrained,
            optimizees(setting, "train"),
            key=jax.random.key(trial.seed),
            schedule=meta.HorizonCurriculum(period=10) if setting.schedule is None else setting.schedule,
            unroll=setting.unroll,
            estimator=estimator,
            run=folder,
            resume=True,
        ).optimizer

    return trial.once(name, make)


def _key(trial: Trial) -> PRNGKeyArray:
    return jax.random.fold_in(trial.key, 1)


def _test_key(trial: Trial) -> PRNGKeyArray:
    """The key from which `run_adapted` draws the problem of the test."""
    return jax.random.split(_key(trial), 4)[2]


def adapted(
    trial: Trial,
    optimizer: learned.AbstractLearnedOptimizer,
    adaptation: AbstractFamily,
    test: AbstractFamily,
    steps: int | None = None,
) -> AdaptationRun:
    """Adaptation to one optimizee, and the run on another: the same ones for all methods of a repetition."""
    setting: Setting = trial.protocol.setting
    return run_adapted(
        optimizer,
        adaptation,
        test,
        key=_key(trial),
        adaptation_steps=setting.adaptation_steps if steps is None else steps,
        num_steps=setting.num_steps,
        unroll=setting.unroll,
        estimator=meta.CoordinateSum(),
    )


def excess(trial: Trial, run: AdaptationRun, place: str, test: AbstractFamily) -> float:
    """$\\log_{10}$ of how far the smallest loss of a run on LASSO is above the minimum of its optimizee.

    Where the penalty leaves a minimum far above zero, the logarithm of the loss itself tells methods apart no more.
    """
    problem = test(_test_key(trial))
    assert isinstance(problem, problems.LassoBatch)
    least = trial.once(f"minimum-{place}-{trial.repetition}", lambda folder: lasso_minimum(problem))
    return math.log10(max(10**run.score - least, 1e-9))


def lasso_minimum(problem: problems.LassoBatch, num_steps: int = 6_000) -> float:
    """The minimum of a batch of LASSO problems: accelerated proximal gradient with restarts, in float64."""
    a, b = (np.asarray(x, np.float64) for x in (problem.matrix, problem.target))
    l1, x = float(problem.l1), np.zeros((a.shape[0], a.shape[2], 1))
    gram, linear = a.swapaxes(1, 2) @ a, a.swapaxes(1, 2) @ b[:, :, None]
    rate = 1 / np.linalg.eigvalsh(gram)[:, -1:, None]
    y, time = x, np.ones_like(rate)
    for _ in range(num_steps):
        z = y - rate * (gram @ y - linear)
        new = np.sign(z) * np.maximum(np.abs(z) - rate * l1, 0)
        restart = np.sum((y - new) * (new - x), axis=(1, 2), keepdims=True) > 0
        time = np.where(restart, 1.0, time)
        later = (1 + np.sqrt(1 + 4 * time**2)) / 2
        y = new + np.where(restart, 0.0, (time - 1) / later) * (new - x)
        x, time = new, later
    return float(np.mean(np.sum((a @ x - b[:, :, None]) ** 2, (1, 2)) / 2 + l1 * np.abs(x).sum((1, 2))))


def steps_of(trial: Trial, method: str) -> int:
    """The steps of adaptation of a method."""
    return 0 if method == "direct-transfer" else trial.protocol.setting.adaptation_steps


def scores(cells: Mapping[str, Sequence[Any]], number: str = "score", rival: str = "m-l2o") -> dict[str, Any]:
    """Of cells `place/method`: at each place the spread of each method's number, and of the paired differences from
    one of them."""
    out: dict[str, Any] = {"scores": {}, "minus": {}}
    for name, seeds in cells.items():
        place, _, method = name.rpartition("/")
        found = [one[number] for one in seeds]
        out["scores"].setdefault(place, {})[method] = spread(found)
        if f"{place}/{rival}" in cells and method != rival:
            others = [one[number] for one in cells[f"{place}/{rival}"]]
            pairs = zip(found, others, strict=True)
            out["minus"].setdefault(place, {})[method] = spread([None if None in p else p[0] - p[1] for p in pairs])
    return out


def summarize(results: Results) -> Metrics:
    """Scores and paired differences, of the loss and, where it was measured, of its excess over the minimum."""
    out = scores(results)
    if all("excess" in one for seeds in results.values() for one in seeds):
        out["excess"] = scores(results, "excess")
    return out


def tables(metrics: Metrics) -> dict[str, Any]:
    """Both, with 95 % intervals."""

    def rows(of: Mapping[str, Any]) -> dict[str, Any]:
        return {place: {name: interval(one) for name, one in entries.items()} for place, entries in of.items()}

    loss = "log10 of the smallest loss of the test run"
    spreads, minus = (
        "mean over repeats and its 95 % interval",
        "minus that of M-L2O, paired (positive: M-L2O is better)",
    )
    out = {f"{loss}, {spreads}": rows(metrics["scores"]), f"The same {minus}": rows(metrics["minus"])}
    if "excess" in metrics:
        above = "log10 of how far the smallest loss is above the minimum of the optimizee"
        out |= {f"{above}, {spreads}": rows(metrics["excess"]["scores"])}
        out |= {f"The same distance {minus}": rows(metrics["excess"]["minus"])}
    return out


def interval(values: Mapping[str, Any]) -> str:
    """A spread as text."""
    if values["mean"] is None:
        return "not finite"
    ends = values["interval"]
    return f"{values['mean']:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def all_ascending(value: Mapping[str, Sequence[float]]) -> bool:
    """Whether every row of numbers is in ascending order."""
    return bool(value) and all(a < b for row in value.values() for a, b in itertools.pairwise(row))


def all_above_one(value: Mapping[str, float | None]) -> bool:
    """Whether every number is there and above 1."""
    return bool(value) and all(x is not None and x > 1 for x in value.values())
