"""Meta-training: the truncated unrolls of many short optimizations, one meta-update each."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import optax

from .. import learned
from .._problem import AbstractProblem
from .._progress import progress_bar
from .._run import RunFolder, describe
from ..learned import AbstractCoordinatewise, AbstractLearnedOptimizer
from ..measures import AbstractScore, TrailingLoss
from ._curriculum import InstanceCurriculum
from ._estimators import AbstractGradientEstimator, CoordinateSum, TruncatedBackprop
from ._losses import AbstractMetaLoss, Sum
from ._objectives import AbstractMetaObjective
from ._report import write_report
from ._tasks import AbstractTasks, Fixed
from ._trainer import Meta, Trainer

_COUNTERS = ("epoch", "skipped", "best_loss", "best_epoch")
_CALL_SECONDS = 0.5  # a compiled call of several truncations takes about this at most: Ctrl-C has to wait for it


class Validation(eqx.Module):
    """How a learned optimizer is judged during meta-training, so that the best one is kept.

    Runs `num_runs` optimizations of `horizon` steps with the current meta-parameters, on fresh problems and always the
    same ones (common random numbers). The lowest mean score over the runs wins; one that is not finite never does.

    **Arguments:**

    - `every`: epochs between validations.
    - `horizon`: steps per run; `None` means the horizon of the current stage.
    - `num_runs`: default 20, as in Chen et al. (2020).
    - `score`: of one run. Default `nestax.measures.TrailingLoss(20)`, the mean of the last 20 losses; the single last
      loss is noisier. Games, whose losses say little, need another one, such as `nestax.measures.SuccessRate()`.
    - `tasks`: the distribution of problems; `None` means that of the training. Give one where the training has a finite
      set of instances.
    """

    every: int = eqx.field(static=True)
    horizon: int | None = eqx.field(default=None, static=True)
    num_runs: int = eqx.field(default=20, static=True)
    score: AbstractScore = TrailingLoss(window=20)
    tasks: AbstractTasks | None = None

    def __check_init__(self):
        for name in ("every", "num_runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`Validation({name}=...)` must be at least 1, got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """What `train` returns.

    - `optimizer`: the trained optimizer: the one with the best validation score, or without validation the last one.
    - `last`: the optimizer after the last epoch.
    - `history`: one record per epoch, as in `metrics.jsonl`.
    - `num_skipped`: meta-updates left out because loss or meta-gradient was not finite.
    """

    optimizer: AbstractLearnedOptimizer
    last: AbstractLearnedOptimizer
    history: list[dict[str, Any]]
    num_skipped: int


def train(
    optimizer: AbstractLearnedOptimizer,
    tasks: AbstractProblem | AbstractTasks,
    *,
    seed: int = 0,
    schedule: Sequence[tuple[int, int]] = ((100, 100),),
    unroll: int = 20,
    num_tasks: int = 1,
    meta_loss: AbstractMetaLoss | AbstractMetaObjective | None = None,
    estimator: AbstractGradientEstimator | None = None,
    meta_optimizer: optax.GradientTransformation | None = None,
    validation: Validation | None = None,
    curriculum: InstanceCurriculum | None = None,
    run: str | PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    config: dict[str, Any] | None = None,
    progress: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> MetaTraining:
    r"""Meta-trains a learned optimizer by truncated unrolls.

    An epoch is one optimization of `horizon` steps on `num_tasks` fresh problems at once, cut into truncations of
    `unroll` steps. Each truncation gives one meta-gradient (the mean over the problems) and one update of the
    meta-parameters; players and optimizer state are carried on, with gradients stopped (Andrychowicz et al., 2016; Chen
    et al., 2020, section 3). An epoch is one compiled loop, the same for every horizon
    (or several, so that none takes much longer than half a second, or than one truncation).

    **Arguments:**

    - `optimizer`: where to start from.
    - `tasks`: a problem, or a distribution of problems.
    - `seed`: fixes everything random. Same seed, same result, bit for bit, on the same machine and version.
    - `schedule`: stages `(horizon, epochs)`. Default: 100 epochs of 100 steps, which is enough for `RNNprop`; `L2ODM`
      was published with thousands, and drifts: give it a `validation`. Growing horizons teach it to keep going.
    - `unroll`: steps per truncation; divides every horizon. Default 20, as published.
    - `num_tasks`: problems per meta-update.
    - `meta_loss`: default `Sum()`. A function of the losses, or, for games, a meta-objective, which sees the players.
    - `estimator`: default `CoordinateSum(256)` for coordinatewise optimizers (unbiased, several times faster), and
      `TruncatedBackprop()` for all others and for meta-objectives.
    - `meta_optimizer`: an Optax transformation; default `optax.adam(1e-3)`.
    - `validation`: keep the best; `None` (default) keeps the last.
    - `curriculum`: which of the problems count in a meta-update, by their difficulty; `None` (default): all of them. It
      needs a meta-objective.
    - `run`: a folder to write `config.json`, `metrics.jsonl` and checkpoints to; `resume=True` goes on from its last
      checkpoint and ends with the same weights, bit for bit, as a run that was never interrupted.
    - `checkpoint_seconds`: at most this long between checkpoints, which are written at the end of an epoch.
    - `config`: JSON values to store beside the settings above; on resume they must be the same.
    - `progress`: show a progress bar with the current losses.
    - `stop`: called after each epoch with its number; training ends early, resumable, when it returns true.

    An update whose loss or meta-gradient is not finite is skipped and counted. Ctrl-C (`KeyboardInterrupt`) saves a
    checkpoint of the last complete epoch before it is raised again.

    **Returns** a `MetaTraining`.

    **Raises** `ValueError` for bad arguments or a folder that already holds a run; `CheckpointError` for a damaged
    checkpoint or one of another run; `OSError` if the disk is full (the previous checkpoint survives).

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> optimizer = nx.learned.RNNprop(key=jax.random.key(0))
    >>> trained = nx.meta.train(optimizer, problem, schedule=[(20, 5)], unroll=10).optimizer

    ```
    """
    tasks = Fixed(tasks) if isinstance(tasks, AbstractProblem) else tasks
    meta_loss = Sum() if meta_loss is None else meta_loss
    coordinatewise = isinstance(optimizer, AbstractCoordinatewise) and not optimizer.second_derivatives
    if estimator is None:
        of_losses = isinstance(meta_loss, AbstractMetaLoss)
        estimator = CoordinateSum(256) if coordinatewise and of_losses else TruncatedBackprop()
    if isinstance(meta_loss, AbstractMetaObjective) and not isinstance(estimator, TruncatedBackprop):
        raise ValueError(
            "A meta-objective that sees the players is differentiated through the unroll: use the estimator "
            f"`TruncatedBackprop`, got {type(estimator).__name__}."
        )
    if curriculum is not None and not isinstance(meta_loss, AbstractMetaObjective):
        raise ValueError(
            f"A curriculum grades instances by their unrolls, so `meta_loss` must be a meta-objective, such as "
            f"`Relative(SquaredGradientNorm())`, got {type(meta_loss).__name__}."
        )
    schedule = _check_schedule(schedule, unroll)
    if num_tasks < 1:
        raise ValueError(f"`num_tasks` must be at least 1, got {num_tasks}.")
    meta_optimizer = optax.adam(1e-3) if meta_optimizer is None else meta_optimizer
    trainer = Trainer(optimizer, tasks, unroll, num_tasks, meta_loss, estimator, meta_optimizer, curriculum)
    settings = {
        "seed": seed,
        "schedule": [list(stage) for stage in schedule],
        "unroll": unroll,
        "num_tasks": num_tasks,
        "meta_loss": describe(meta_loss),
        "estimator": describe(estimator),
        "validation": None if validation is None else _describe(validation),
        "curriculum": None if curriculum is None else describe(curriculum),
        "optimizer": {"class": type(optimizer).__name__, **optimizer.config()},
        **(config or {}),
    }
    session = _Session(trainer, schedule, validation, jax.random.key(seed), checkpoint_seconds)
    if run is not None:
        session.attach(RunFolder(Path(run), "meta-training run", _COUNTERS), settings, resume)
    return session.train(progress, stop)


def _describe(validation: Validation) -> dict[str, Any]:
    """Of the tasks, which may be many stacked problems, a fingerprint of their numbers."""
    out = describe(dataclasses.replace(validation, tasks=None))
    if validation.tasks is not None:
        text = json.dumps(describe(validation.tasks), sort_keys=True)
        out["tasks"] = f"{type(validation.tasks).__name__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return out


def _check_schedule(schedule: Sequence[tuple[int, int]], unroll: int) -> tuple[tuple[int, int], ...]:
    if unroll < 1:
        raise ValueError(f"`unroll` must be at least 1, got {unroll}.")
    if not schedule:
        raise ValueError("`schedule` is empty: give at least one stage `(horizon, epochs)`.")
    for horizon, epochs in schedule:
        if horizon < 1 or horizon % unroll or epochs < 1:
            raise ValueError(
                f"Every stage `(horizon, epochs)` needs a horizon that is a multiple of `unroll` ({unroll}) and at "
                f"least one epoch, got ({horizon}, {epochs})."
            )
    return tuple((int(h), int(e)) for h, e in schedule)


class _Session:
    """One training from its first or its resumed epoch to its end."""

    def __init__(self, trainer: Trainer, schedule, validation, key, checkpoint_seconds):
        self.trainer = trainer
        self.horizons = [horizon for horizon, epochs in schedule for _ in range(epochs)]
        self.validation = validation
        self.epoch_key, self.validation_key = jax.random.split(key)
        self.checkpoint_seconds = checkpoint_seconds
        self.folder: RunFolder | None = None
        self.settings: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.meta = trainer.initial
        self.best = trainer.initial.weights
        self.counters: dict[str, Any] = dict(zip(_COUNTERS, (0, 0, None, None)))
        self.saved_at = time.monotonic()
        self.stride = 1  # truncations per compiled call

    def attach(self, folder: RunFolder, settings: dict[str, Any], resume: bool) -> None:
        self.folder, self.settings = folder, settings
        if folder.start(settings, resume):
            (self.meta, self.best), header = folder.load((self.meta, self.best))
            self.counters = {name: header[name] for name in self.counters}
            self.history = folder.read_metrics()

    def train(self, progress: bool, stop: Callable[[int], bool] | None) -> MetaTraining:
        total = sum(self.horizons)
        done = sum(self.horizons[: self.counters["epoch"]])
        try:
            with progress_bar(total, "meta-training", progress) as report:
                for epoch in range(self.counters["epoch"], len(self.horizons)):
                    record = self._epoch(epoch)
                    done += self.horizons[epoch]
                    report(done, lambda record=record: _note(record))
                    if stop is not None and stop(epoch):
                        break
        finally:  # also on Ctrl-C: everything up to the last complete epoch is kept
            self._save()
        last = self.trainer.optimizer(self.meta)
        keep_best = self.counters["best_loss"] is not None
        optimizer = self.trainer.optimizer(Meta(self.best, None)) if keep_best else last
        if self.folder is not None and self.counters["epoch"] == len(self.horizons):
            learned.save(self.folder.path / "optimizer.safetensors", optimizer)
            write_report(self.folder.path, self.settings, self.history, self.counters["skipped"])
        return MetaTraining(optimizer, last, self.history, self.counters["skipped"])

    def _epoch(self, epoch: int) -> dict[str, Any]:
        started = time.monotonic()
        key = jax.random.fold_in(self.epoch_key, epoch)
        meta, horizon = self.meta, self.horizons[epoch]
        carry, num, index = self.trainer.start(meta, key, epoch, horizon), horizon // self.trainer.unroll, 0
        while index < num:
            begun, stop = time.monotonic(), min(index + self.stride, num)
            meta, carry = jax.block_until_ready(self.trainer.advance(meta, carry, key, index, stop, horizon))
            if time.monotonic() - begun < _CALL_SECONDS / 2 and stop - index == self.stride:
                self.stride *= 2
            index = stop
        report = carry[-1]
        skipped = int(report.skipped)
        record = {
            "epoch": epoch,
            "horizon": horizon,
            "meta_loss": _number(report.meta_loss / num),
            "final_loss": _number(report.final_loss),
            "skipped": skipped,
        }
        counters = {**self.counters, "epoch": epoch + 1, "skipped": self.counters["skipped"] + skipped}
        best = self.best
        if self.validation is not None and (
            (epoch + 1) % self.validation.every == 0 or epoch + 1 == len(self.horizons)
        ):
            score = self._score(meta, self.validation, horizon)
            record["validation"] = _number(score)
            if score < (math.inf if counters["best_loss"] is None else counters["best_loss"]):
                counters |= {"best_loss": score, "best_epoch": epoch}
                best = meta.weights
        record["seconds"] = round(time.monotonic() - started, 4)
        # One assignment after the other, no call in between: an interruption leaves a consistent session.
        self.meta, self.best, self.counters = meta, best, counters
        self.history.append(record)
        if self.folder is not None:
            self.folder.record(record)
            if time.monotonic() - self.saved_at >= self.checkpoint_seconds:
                self._save()
        return record

    def _score(self, meta: Meta, validation: Validation, horizon: int) -> float:
        keys = jax.random.split(self.validation_key, validation.num_runs)
        horizon = validation.horizon or horizon
        return self.trainer.validate(meta, validation.score, validation.tasks, keys, horizon)

    def _save(self) -> None:
        if self.folder is not None:
            self.folder.save((self.meta, self.best), self.counters)
            self.saved_at = time.monotonic()


def _number(value: Any) -> float | None:
    """JSON has no NaN."""
    value = float(value)
    return value if math.isfinite(value) else None


def _note(record: dict[str, Any]) -> str:
    values = [f"{name} {record[name]:.4g}" for name in ("final_loss", "validation") if record.get(name) is not None]
    return ", ".join(values)
