"""Meta-training: the truncated unrolls of many short optimizations, one meta-update each."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from .. import learned
from .._family import AbstractFamily, AnyFamily, as_family
from .._folder import Stages
from .._mesh import Devices, check_divides, replicate, resolve
from .._report import Chart
from .._rollout import RESULTS, NumericalError, all_finite
from .._run import Options, Outcome, Session, number
from .._storage import name_of
from ..learned import AbstractCoordinatewise, AbstractLearnedOptimizer
from ..loggers import Callback
from ..measures import AbstractScore, TrailingLoss
from ._coordinate_sum import CoordinateSum
from ._curriculum import InstanceCurriculum
from ._ensemble import Ensemble
from ._estimators import AbstractGradientEstimator, TruncatedBackprop
from ._losses import AbstractMetaLoss, Sum
from ._objectives import AbstractMetaObjective
from ._schedule import AbstractSchedule, Epoch
from ._teaching import AbstractTeaching
from ._trainer import EpochState, Meta, Trainer

_CALL_SECONDS = 0.5  # a compiled call of several truncations takes about this at most: Ctrl-C has to wait for it
_HOPELESS = 10  # epochs without a single update after which training ends
_MANY_SKIPPED = 0.1  # the share of skipped updates above which there is a warning
_MOST = 2**31 - 1
_LESSON, _FAMILY = 2**32 - 1, 2**32 - 2  # folded into an epoch's key: what is taught, and on which problems

_CHART = Chart(
    "training.png",
    {"final_loss": "loss in the last truncation", "validation": "validation"},
    "epoch",
    "epoch",
    "loss of the optimizee",
)


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
    tasks: AbstractFamily | None = None

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
    - `result`: a `RESULTS`; `message`: what went wrong where it is not `successful`, with epoch, step and tensor.
    """

    optimizer: AbstractLearnedOptimizer
    last: AbstractLearnedOptimizer
    history: list[dict[str, Any]]
    num_skipped: int
    result: Any
    message: str


def train(
    optimizer: AbstractLearnedOptimizer,
    tasks: AnyFamily | Ensemble,
    *,
    key: PRNGKeyArray,
    schedule: Sequence[tuple[int, int]] | AbstractSchedule = ((100, 100),),
    unroll: int = 20,
    num_tasks: int = 1,
    meta_loss: AbstractMetaLoss | AbstractMetaObjective | None = None,
    estimator: AbstractGradientEstimator | None = None,
    meta_optimizer: optax.GradientTransformation | None = None,
    validation: Validation | None = None,
    curriculum: InstanceCurriculum | None = None,
    teaching: AbstractTeaching | None = None,
    mesh: Devices = None,
    run: str | PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    config: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    throw: bool = True,
) -> MetaTraining:
    r"""Meta-trains a learned optimizer by truncated unrolls.

    An epoch is one optimization of `horizon` steps on `num_tasks` fresh problems at once, cut into truncations of
    `unroll` steps. Each truncation gives one meta-gradient (the mean over the problems) and one update of the
    meta-parameters; players and optimizer state are carried on, with gradients stopped (Andrychowicz et al., 2016; Chen
    et al., 2020, section 3). An epoch is one compiled loop, the same for every horizon
    (or several, so that none takes much longer than half a second, or than one truncation).

    **Arguments:**

    - `optimizer`: where to start from.
    - `tasks`: a problem, a family of problems (an `AbstractFamily`, or a function from a PRNG key to a problem), or an
      `Ensemble` of several families.
    - `key`: a PRNG key, fixes everything random. Same key, same result, bit for bit, on the same machine and version.
    - `schedule`: stages `(horizon, epochs)`. Default: 100 epochs of 100 steps, which is enough for `RNNprop`; `L2ODM`
      was published with thousands, and drifts: give it a `validation`. Growing horizons teach it to keep going. Or a
      rule that decides epoch by epoch, such as `HorizonCurriculum()`, which plans the validations too.
    - `unroll`: steps per truncation; divides every horizon. Default 20, as published.
    - `num_tasks`: problems per meta-update.
    - `meta_loss`: default `Sum()`. A function of the losses, or, for games, a meta-objective, which sees the players.
    - `estimator`: default `CoordinateSum(256)` for coordinatewise optimizers (unbiased, several times faster), and
      `TruncatedBackprop()` for all others and for meta-objectives.
    - `meta_optimizer`: an Optax transformation; default `optax.adam(1e-3)`.
    - `validation`: keep the best; `None` (default) keeps the last.
    - `curriculum`: which of the problems count in a meta-update, by their difficulty; `None` (default): all of them. It
      needs a meta-objective.
    - `teaching`: lessons besides the optimizer's own runs: `Imitation` or `SelfImproving`. Default `None`.
    - `mesh`: which devices share the tasks: a number of devices that divides `num_tasks`, or a `jax.sharding.Mesh`,
      also of several processes, see [Scale](../scale.md). Meta-parameters are on every device, and a meta-update has
      one all-reduce; the runs of a validation are shared too. Default `None`: all devices of this process where they
      divide `num_tasks`, else one. The result is that of one device up to rounding, and a run may go on with other
      devices.
    - `run`: a new or empty folder for `config.json`, `metrics.jsonl`, checkpoints, and at the end the optimizer, a plot
      and a report. `resume=True` goes on from its last checkpoint, if there is one, and ends with the same weights, bit
      for bit, as a run that was never interrupted. All arguments above but `mesh` must be what they were, and
      `schedule` may be longer. (A validation at the end of the shorter one then counts as one more.)
    - `checkpoint_seconds`: at most this long between checkpoints, which are written at the end of an epoch.
    - `config`: JSON values to store beside the settings above; on resumption they must be the same.
    - `labels`: from the name of an argument to a text that stands for it on resumption; needed for those that hold
      something that cannot be compared, such as an open file.
    - `progress`: show a progress bar with the current losses.
    - `callback`: called after each epoch with its record; training ends, resumable, when it returns true. A function,
      one of `nestax.loggers`, or a list of them.
    - `throw`: raise `NumericalError` where meta-parameters become inf or NaN, or every update of the first ten epochs
      (or of all, if they are fewer) was skipped; otherwise `result` and `message` say so.

    An update whose loss or meta-gradient is not finite is skipped and counted; a warning tells of more than a tenth.
    Ctrl-C (`KeyboardInterrupt`) saves a checkpoint of the last complete epoch before it is raised again, and so does a
    failure.

    **Returns** a `MetaTraining`.

    **Raises** `ValueError` for bad arguments, or a folder that holds a run, other files, or is in use;
    `CheckpointError` for a damaged checkpoint or one of another run; `OSError` if the disk is full (the previous
    checkpoint survives); `NumericalError` as above.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> optimizer = nx.learned.RNNprop(key=jax.random.key(0))
    >>> training = nx.meta.train(optimizer, problem, schedule=[(20, 5)], unroll=10, key=jax.random.key(1))
    >>> trained = training.optimizer

    ```
    """
    families = tasks.families if isinstance(tasks, Ensemble) else (as_family(tasks, "tasks"),)
    meta_loss = Sum() if meta_loss is None else meta_loss
    coordinatewise = isinstance(optimizer, AbstractCoordinatewise) and not optimizer.second_derivatives
    if estimator is None:
        of_losses = isinstance(meta_loss, AbstractMetaLoss)
        estimator = CoordinateSum(256) if coordinatewise and of_losses else TruncatedBackprop()
    if curriculum is not None and not isinstance(meta_loss, AbstractMetaObjective):
        raise ValueError(
            f"A curriculum ranks instances by their unrolls, so `meta_loss` must be a meta-objective, such as "
            f"`Relative(SquaredGradientNorm())`, got {type(meta_loss).__name__}."
        )
    stages, validation = _check_schedule(schedule, unroll, validation)
    if num_tasks < 1:
        raise ValueError(f"`num_tasks` must be at least 1, got {num_tasks}.")
    devices = resolve(mesh, num_tasks)
    check_divides(devices, num_tasks, "num_tasks")
    meta_optimizer = _adam() if meta_optimizer is None else meta_optimizer
    num_moments = 1 if teaching is None else teaching.num_moments
    trainer = Trainer.of(
        optimizer,
        families[0],
        unroll,
        num_tasks,
        meta_loss,
        estimator,
        meta_optimizer,
        curriculum,
        num_moments,
        devices,
    )
    session = Session(
        "meta-training",
        index="epoch",
        stages=stages,
        arguments={
            "optimizer": optimizer,
            "tasks": tasks if isinstance(tasks, Ensemble) else families[0],
            "key": key,
            "unroll": unroll,
            "num_tasks": num_tasks,
            "meta_loss": meta_loss,
            "estimator": estimator,
            "meta_optimizer": meta_optimizer,
            "validation": validation,
            "curriculum": curriculum,
            "teaching": teaching,
            "schedule": schedule if isinstance(schedule, AbstractSchedule) else None,
        },
        state=trainer.initial,
        best=trainer.initial.weights,
        options=Options(run, resume, checkpoint_seconds, config, labels, callback, progress),
        mesh=devices,
    )
    epochs = _Epochs(trainer, families, session, schedule, validation, teaching, key)
    with session:
        session.drive(epochs.advance, _note, epochs.is_over)
        return epochs.finish(throw)


@functools.cache
def _adam() -> optax.GradientTransformation:
    """The default meta-optimizer: one object, since another would compile everything anew."""
    return optax.adam(1e-3)


def _check_schedule(
    schedule: Sequence[tuple[int, int]] | AbstractSchedule, unroll: int, validation: Validation | None
) -> tuple[Stages, Validation | None]:
    """The stages of a session, and the validation, which a schedule may plan itself."""
    if unroll < 1:
        raise ValueError(f"`unroll` must be at least 1, got {unroll}.")
    if isinstance(schedule, AbstractSchedule):
        schedule.check(unroll)
        every = schedule.validates_every()
        if every is not None and validation is not None and (validation.every, validation.horizon) != (every, None):
            raise ValueError(
                f"`{type(schedule).__name__}` plans the validations itself: one every {every} epochs, with horizons of "
                f"its own. Pass `Validation(every={every}, ...)` without a `horizon`, or none."
            )
        if every is None and validation is not None and validation.horizon is None:
            raise ValueError(
                f"The horizons of `{type(schedule).__name__}` vary, so say on which one to judge: "
                "`Validation(horizon=...)`."
            )
        default = None if every is None else Validation(every=every)
        return ((1, schedule.most()),), validation or default
    if not schedule:
        raise ValueError("`schedule` is empty: give at least one stage `(horizon, epochs)`.")
    for horizon, epochs in schedule:
        if horizon < 1 or horizon % unroll or epochs < 1:
            raise ValueError(
                f"Every stage `(horizon, epochs)` needs a horizon that is a multiple of `unroll` ({unroll}) and at "
                f"least one epoch, got ({horizon}, {epochs})."
            )
        if horizon > _MOST:
            raise ValueError(f"A horizon may be at most {_MOST:,} steps, got {horizon:,}.")
    total = sum(epochs for _, epochs in schedule)
    if total > _MOST:
        raise ValueError(f"`schedule` may have at most {_MOST:,} epochs, got {total:,}.")
    return tuple((int(h), int(e)) for h, e in schedule), validation


class _Epochs:
    """The epochs of one training, as records of a session."""

    def __init__(
        self,
        trainer: Trainer,
        families: tuple[AbstractFamily, ...],
        session: Session,
        schedule: Sequence[tuple[int, int]] | AbstractSchedule,
        validation: Validation | None,
        teaching: AbstractTeaching | None,
        key: PRNGKeyArray,
    ):
        self.trainer = trainer = replicate(trainer.mesh, trainer)
        self.families = replicate(trainer.mesh, families)
        self.session = session
        self.schedule = schedule if isinstance(schedule, AbstractSchedule) else None
        self.validation = validation
        self.teaching = teaching
        self.epoch_key, self.validation_key = jax.random.split(replicate(trainer.mesh, key))
        self.stride = 1  # truncations per compiled call

    def plan(self) -> Epoch | None:
        """The next epoch; a pure function of the records so far."""
        session, validation = self.session, self.validation
        epoch = session.num_records
        if self.schedule is not None:
            plan = self.schedule.next(session.history)
        elif session.is_complete:
            plan = None
        else:
            plan = Epoch(session.length(epoch), session.stage(epoch) - 1)
        own = self.schedule is not None and self.schedule.validates_every() is not None
        if plan is None or validation is None or own:
            return plan
        last = epoch + 1 == sum(number for _, number in session.stages)
        due = (epoch + 1) % validation.every == 0 or last
        return plan._replace(validation=(validation.horizon or plan.horizon) if due else None)

    def is_over(self) -> bool:
        """Whether no epoch follows."""
        return self.hopeless() or self.plan() is None

    def _prepare(self, plan: Epoch, key: PRNGKeyArray, epoch: int) -> tuple[Trainer, dict[str, Any]]:
        """The trainer of an epoch, and what its record says of it."""
        trainer, notes = self.trainer, {}
        if self.schedule is not None:
            notes["stage"] = plan.stage
        if plan.unroll is not None:
            trainer = dataclasses.replace(trainer, unroll=plan.unroll)
            notes["unroll"] = plan.unroll
        if len(self.families) > 1:
            notes["family"] = int(jax.random.randint(jax.random.fold_in(key, _FAMILY), (), 0, len(self.families)))
            trainer = dataclasses.replace(trainer, tasks=self.families[notes["family"]])
        if self.teaching is not None:
            lesson_key = jax.random.fold_in(key, _LESSON)
            lesson = self.teaching.lesson(lesson_key, epoch, plan.stage, trainer.estimator)
            trainer = dataclasses.replace(trainer, estimator=lesson.estimator, moments=lesson.moments)
            notes["teacher"] = lesson.teacher
        return replicate(trainer.mesh, trainer), notes

    def advance(self, meta: Meta, epoch: int) -> Outcome:
        started = time.monotonic()
        meta = replicate(self.trainer.mesh, meta)
        key, plan = jax.random.fold_in(self.epoch_key, epoch), self.plan()
        assert plan is not None
        trainer, notes = self._prepare(plan, key, epoch)
        if plan.restored is not None:
            meta = replicate(self.trainer.mesh, Meta(self.session.best, meta.states))
            notes["baseline"] = number(self._score(meta, plan.restored))
        horizon = plan.horizon
        state, num, index = trainer.start(meta, key, epoch, horizon), horizon // trainer.unroll, 0
        while index < num:
            begun, stop = time.monotonic(), min(index + self.stride, num)
            before = meta, state
            meta, state = jax.block_until_ready(trainer.advance(meta, state, key, index, stop))
            if not _is_finite(meta.weights):
                return self._failed(trainer, plan, *before, key, index, stop, epoch)
            quick = time.monotonic() - begun < _CALL_SECONDS / 2
            if stop - index == self.stride and self.session.processes.decide(quick):
                self.stride *= 2
            index = stop
        report = state.report
        record = {
            "epoch": epoch,
            "horizon": horizon,
            "meta_loss": number(report.meta_loss / num),
            "final_loss": number(report.final_loss),
            "skipped": int(report.skipped),
            **notes,
        }
        if record.get("teacher") is not None and record["final_loss"] is None:
            return Outcome(
                meta,
                None,
                failure=f"the teacher number {record['teacher']} diverged in epoch {epoch} (stage {plan.stage + 1}, "
                f"horizon {horizon}): its loss became inf or NaN. Lower its learning rate",
            )
        score = None
        if plan.validation is not None:
            score = record["validation"] = number(self._score(meta, plan.validation))
        record["seconds"] = round(time.monotonic() - started, 4)
        rescored = plan.restored is not None
        return Outcome(meta, record, score, meta.weights, rescored=rescored, baseline=notes.get("baseline"))

    def _failed(
        self, trainer: Trainer, plan: Epoch, meta: Meta, state: EpochState, key, index: int, stop: int, epoch: int
    ) -> Outcome:
        """Takes the updates of one call again, one by one, to say which of them it was; the state is the one before."""
        new = meta
        while index < stop:
            new, state = trainer.advance(meta, state, key, index, index + 1)
            if not _is_finite(new.weights):
                break
            meta, index = new, index + 1
        leaves = jax.tree_util.tree_leaves_with_path(new.weights)
        name = next((name_of(path) for path, x in leaves if not bool(jnp.all(jnp.isfinite(x)))), "?")
        unroll, stage, horizon = trainer.unroll, plan.stage + 1, plan.horizon
        return Outcome(
            meta,
            None,
            failure=f"the meta-optimizer made '{name}' inf or NaN in epoch {epoch} (stage {stage}, horizon {horizon}), "
            f"by the update after steps {index * unroll} to {(index + 1) * unroll}, from a finite meta-gradient. Lower "
            "its learning rate, or clip",
        )

    def _score(self, meta: Meta, horizon: int) -> float:
        validation = self.validation
        assert validation is not None
        keys = jax.random.split(self.validation_key, validation.num_runs)
        judges = self.families if validation.tasks is None else (validation.tasks,)
        scores = [self.trainer.validate(meta, validation.score, each, keys, horizon) for each in judges]
        return sum(scores) / len(scores)

    def hopeless(self) -> bool:
        """Whether nothing was learned in the first epochs."""
        return self.session.num_records >= _HOPELESS and self._num_skipped() == self._num_updates()

    def _num_skipped(self) -> int:
        return sum(record["skipped"] for record in self.session.history)

    def _num_updates(self) -> int:
        return sum(r["horizon"] // r.get("unroll", self.trainer.unroll) for r in self.session.history)

    def finish(self, throw: bool) -> MetaTraining:
        session, skipped, num = self.session, self._num_skipped(), self._num_updates()
        message = session.failure
        if not message and num and skipped == num and (self.plan() is None or self.hopeless()):
            message = (
                f"all {num} meta-updates so far were skipped, since the loss of the problem or the meta-gradient was "
                "not finite. Look at the problem's loss, or lower the output scale of the optimizer"
            )
        if message and throw:
            kept = "" if session.folder is None else f" The last good checkpoint is in {session.folder}."
            raise NumericalError(f"Meta-training failed: {message}.{kept}")
        last = self.trainer.optimizer(session.state)
        chosen = last if session.best_record is None else self.trainer.optimizer(Meta(session.best, ()))
        if self.plan() is None and not message:
            if session.folder is not None:
                learned.save(session.folder / "optimizer.safetensors", chosen)
            session.report(_CHART, self._lines(skipped))
            self._warn(skipped, num)
        result = RESULTS.nonfinite if message else RESULTS.successful
        return MetaTraining(chosen, last, session.history, skipped, result, message)

    def _warn(self, skipped: int, num: int) -> None:
        if skipped > _MANY_SKIPPED * num:
            warnings.warn(
                f"{skipped} of {num} meta-updates ({skipped / num:.0%}) were skipped, since loss or meta-gradient was "
                "not finite: the optimizer was trained on the others alone.",
                stacklevel=4,
            )
        if self.validation is not None and self.session.best_record is None:
            warnings.warn("No validation score was finite: the last optimizer is kept.", stacklevel=4)

    def _lines(self, skipped: int) -> list[str]:
        history, best = self.session.history, self.session.best_record
        seconds = sum(record["seconds"] for record in history)
        lines = [f"{len(history)} epochs in {seconds:.0f} s, {skipped} updates skipped."]
        if best is not None:
            score = history[best]["validation"]
            lines.append(f"Best validation score {score:.4g}, after epoch {best}; that optimizer is kept.")
        return lines


_is_finite = eqx.filter_jit(all_finite)


def _note(record: dict[str, Any]) -> str:
    values = [f"{name} {record[name]:.4g}" for name in ("final_loss", "validation") if record.get(name) is not None]
    return ", ".join(values)
