"""`tune`: training and hyperparameter optimization, one compiled step for both."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players
from .._progress import progress_bar
from .._rollout import RESULTS, NumericalError, Rollout, rollout
from .._run import RunFolder, describe
from .._solve import stack_samples
from ..optimizers import as_gradient_optimizer, as_optimizer
from ._hypergradient import check_pair
from ._method import AbstractMethod, Implicit
from ._outer import OuterSamples, OuterStep, TuningState
from ._report import write_report
from ._tolerance import AbstractTolerance

_COUNTERS = ("record", "best_record", "best_score")

Evaluate = Callable[[Players], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `tune` returns.

    - `players`: hyperparameters and weights at the end.
    - `best`: those after the record with the lowest `criterion`.
    - `history`: one dictionary per record: `step` (outer steps so far), `outer_loss`, `inner_loss`,
      `inner_gradient_norm`, `residual` (means over the record's steps; `None` where not finite or not measured),
      `inner_steps`, `diverged`, `indefinite` (sums), `seconds`, and what `evaluate` returned.
    - `best_record`: the number of that record in `history`; `None` if none was finite.
    - `state`: a `TuningState`: all that another run would need to go on.
    - `num_steps`: successful outer steps.
    - `result`: a `RESULTS`.
    """

    players: Players
    best: Players
    history: list[dict[str, Any]]
    best_record: int | None
    state: TuningState
    num_steps: int
    result: Any


def tune(
    problem: AbstractProblem,
    *,
    optimizer: AbstractOptimizer | optax.GradientTransformation,
    outer_optimizer: AbstractOptimizer | optax.GradientTransformation,
    num_outer_steps: int,
    num_inner_steps: int,
    key: PRNGKeyArray,
    method: AbstractMethod | None = None,
    players: Players | None = None,
    state: TuningState | None = None,
    tolerance: AbstractTolerance | None = None,
    max_rounds: int = 100,
    record_every: int = 1,
    evaluate: Evaluate | None = None,
    criterion: str = "outer_loss",
    patience: int | None = None,
    run: str | PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    config: dict[str, Any] | None = None,
    progress: bool = False,
    stop: Callable[[int], bool] | None = None,
    throw: bool = True,
) -> Tuning:
    r"""Tunes hyperparameters while the weights train (Lorraine, 2024, Algorithm 4).

    Repeats: `num_inner_steps` steps of the inner optimizer from the *current* weights (a warm start; they are never
    drawn again), then one step of the outer optimizer with the hypergradient there. All of that is one compiled step.
    Since the weights lag behind the hyperparameters, the hypergradient is biased by about $\lVert H^{-1} \rVert \lVert
    g \rVert$; `inner_gradient_norm` in the history is $\lVert g \rVert$.

    **Arguments:**

    - `problem`: two players, hyperparameters first; see `AbstractNested`.
    - `optimizer`, `outer_optimizer`: of the weights and of the hyperparameters: optimizers or Optax transformations.
      Published: Adam with 1e-4 and RMSprop with 1e-2. The state of both goes on from one outer step to the next.
    - `num_outer_steps`: updates of the hyperparameters.
    - `num_inner_steps`: updates of the weights before each of them. Published: 5 with full batches, 9 with
      mini-batches, 1 for language models. May be 0 for `Unrolled`, whose steps train.
    - `key`: fixes the initial point and all samples. One sample serves all of a hypergradient, its key included.
    - `method`: default `Implicit(residual=False)`: twenty Neumann terms with an automatic step size.
    - `players`: where to start; `None` means `problem.init`. `state`: where to go on from, with its players.
    - `tolerance`: $\varepsilon_k$ as in HOAG (Pedregosa, 2016), used twice: rounds of `num_inner_steps` are
      repeated, at most `max_rounds` times, until the inner gradient is that short, and the linear system of `CG`,
      `NormalCG` or `GMRES` is solved to that residual. For deterministic problems.
    - `record_every`: outer steps per record, and per compiled call. Default 1; more is faster where a step is short.
      Divides `num_outer_steps`.
    - `evaluate`: a function of the players that returns named scalars to record, such as the accuracy on test data.
      Compiled; called once per record.
    - `criterion`: the recorded number by which the best players are kept; the lowest. Default `"outer_loss"`.
    - `patience`: stop after so many records without a new best; `None` (default) never does.
    - `run`: a folder for `config.json`, `metrics.jsonl`, checkpoints (at most every `checkpoint_seconds`), and at the
      end a plot and a report. `resume=True` goes on from the last checkpoint and ends with the same players, bit for
      bit, as a run that was never interrupted. `config`: further JSON values to store, the same on resumption.
    - `progress`: show a progress bar with the current losses.
    - `stop`: called after each record with its number; tuning ends early, resumable, when it returns true.
    - `throw`: raise `NumericalError` where players become inf or NaN; otherwise `result` says so.

    **Returns** a `Tuning`. Warns if a Neumann series diverged or a matrix was singular on the way.

    **Raises** `ValueError` for bad arguments, or a folder that holds a run; `CheckpointError` for a damaged checkpoint
    or one of another run; `NumericalError` as above.

    **Example:** the best hyperparameter is 3, where the best response to it has no validation loss.

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx, optax
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.ones(2), jnp.ones(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum((weights - hyperparameters) ** 2)
    >>> tuning = nx.hyper.tune(
    ...     Toy(), optimizer=optax.sgd(0.2), outer_optimizer=optax.sgd(0.5), num_outer_steps=50, num_inner_steps=5,
    ...     key=jax.random.key(0))
    >>> [round(float(x), 3) for x in tuning.players[0]]
    [3.0, 3.0]

    ```
    """
    method = Implicit(residual=False) if method is None else method
    _check(num_outer_steps, num_inner_steps, record_every, patience, max_rounds, method)
    if state is not None and players is not None:
        raise ValueError("A `state` to go on from holds its players: pass one of both.")
    step = OuterStep(
        problem,
        _single(as_optimizer(optimizer)),
        as_gradient_optimizer(outer_optimizer, "outer_optimizer"),
        method,
        tolerance,
        num_inner_steps,
        max_rounds,
    )
    init_key, state_key, sample_key = jax.random.split(key, 3)
    if state is None:
        players = check_pair(problem, _init(problem, init_key) if players is None else players)
        state = step.init(players, state_key)
    session = _Session(step, state, sample_key, num_outer_steps // record_every, record_every, evaluate, criterion)
    if run is not None:
        settings = {
            "problem": type(problem).__name__,
            "optimizer": describe(step.optimizer),
            "outer_optimizer": describe(step.outer_optimizer),
            "method": describe(method),
            "tolerance": None if tolerance is None else describe(tolerance),
            "num_outer_steps": num_outer_steps,
            "num_inner_steps": num_inner_steps,
            "record_every": record_every,
            "criterion": criterion,
            "patience": patience,
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            **(config or {}),
        }
        session.attach(RunFolder(Path(run), "hyperparameter tuning", _COUNTERS), settings, resume, checkpoint_seconds)
    return session.tune(progress, patience, stop, throw)


def _check(num_outer_steps, num_inner_steps, record_every, patience, max_rounds, method) -> None:
    if num_outer_steps < 1:
        raise ValueError(f"`num_outer_steps` must be at least 1, got {num_outer_steps}.")
    if num_inner_steps < 0:
        raise ValueError(f"`num_inner_steps` must not be negative, got {num_inner_steps}.")
    if not isinstance(method, AbstractMethod):
        raise ValueError(f"`method` must be a hypergradient method such as `Implicit()`, got {method!r}.")
    if num_inner_steps == 0 and not method.moves_weights:
        raise ValueError(
            f"With `num_inner_steps=0` nothing trains the weights: {type(method).__name__} leaves them alone. Take at "
            "least 1 step, or `Unrolled`, whose steps train."
        )
    if record_every < 1 or num_outer_steps % record_every:
        raise ValueError(f"`record_every` must divide the {num_outer_steps} outer steps, got {record_every}.")
    if patience is not None and patience < 1:
        raise ValueError(f"`patience` must be at least 1 record, or None, got {patience}.")
    if max_rounds < 1:
        raise ValueError(f"`max_rounds` must be at least 1, got {max_rounds}.")


def _single(optimizer: AbstractOptimizer) -> AbstractOptimizer:
    if optimizer.updates_per_step != 1:
        raise ValueError(
            f"{type(optimizer).__name__} makes {optimizer.updates_per_step} updates per step; an inner optimizer must "
            "make one."
        )
    return optimizer


@eqx.filter_jit
def _init(problem, key):
    return problem.init(key)


class _Session:
    """One tuning from its first or its resumed record to its end."""

    def __init__(self, step, state, key, num_records, record_every, evaluate, criterion):
        self.step = step
        self.key = key
        self.num_records = num_records
        self.record_every = record_every
        self.evaluate = None if evaluate is None else eqx.filter_jit(evaluate)
        self.criterion = criterion
        self.state: TuningState = state
        self.best: Players = state.players
        self.history: list[dict[str, Any]] = []
        self.counters: dict[str, Any] = dict(zip(_COUNTERS, (0, None, None)))
        self.result: Any = RESULTS.successful
        self.folder: RunFolder | None = None
        self.settings: dict[str, Any] = {}
        self.checkpoint_seconds = math.inf
        self.saved_at = time.monotonic()

    def attach(self, folder: RunFolder, settings: dict[str, Any], resume: bool, checkpoint_seconds: float) -> None:
        self.folder, self.settings, self.checkpoint_seconds = folder, settings, checkpoint_seconds
        if folder.start(settings, resume):
            (self.state, self.best), header = folder.load((self.state, self.best))
            self.counters = {name: header[name] for name in _COUNTERS}
            self.history = folder.read_metrics()

    def tune(self, progress: bool, patience: int | None, stop: Callable[[int], bool] | None, throw: bool) -> Tuning:
        complaint = None
        try:
            with progress_bar(self.num_records * self.record_every, "tuning", progress) as report:
                while self.counters["record"] < self.num_records and not self._stalled(patience):
                    out = self._advance()
                    complaint = self._complaint(out) or complaint
                    report(self.history[-1]["step"], lambda: _note(self.history[-1]))
                    stopped = stop is not None and stop(self.counters["record"] - 1)
                    if stopped or self.result != RESULTS.successful:
                        break
        finally:  # also on Ctrl-C: everything up to the last complete record is kept
            self._save()
        if self.folder is not None:
            write_report(self.folder.path, self.settings, self.history)
        if complaint is not None:
            warnings.warn(f"In {sum(r['diverged'] for r in self.history)} outer steps: {complaint}", stacklevel=3)
        tuning = Tuning(
            self.state.players,
            self.best,
            self.history,
            self.counters["best_record"],
            self.state,
            int(self.state.count),
            self.result,
        )
        if throw and self.result != RESULTS.successful:
            raise NumericalError(f"After {tuning.num_steps} outer steps: {RESULTS[self.result]}")
        return tuning

    def _stalled(self, patience: int | None) -> bool:
        best = self.counters["best_record"]
        return patience is not None and self.counters["record"] - (-1 if best is None else best) > patience

    def _advance(self) -> Rollout:
        started = time.monotonic()
        index = self.counters["record"]
        xs = self._samples(jax.random.fold_in(self.key, index))
        out = rollout(self.step, self.state, xs, num_steps=self.record_every, throw=False)
        record = {"record": index, "step": int(out.carry.count), **_summary(out.info)}
        if self.evaluate is not None:
            record |= {name: _number(value) for name, value in self.evaluate(out.carry.players).items()}
        record["seconds"] = round(time.monotonic() - started, 4)
        if self.criterion not in record:
            raise ValueError(
                f"`criterion` is {self.criterion!r}, but a record holds {', '.join(map(repr, record))}. Let `evaluate` "
                "return it."
            )
        counters, best = {**self.counters, "record": index + 1}, self.best
        score = record[self.criterion]
        if score is not None and (counters["best_score"] is None or score < counters["best_score"]):
            counters |= {"best_record": index, "best_score": score}
            best = out.carry.players
        # One assignment after the other, no call in between: an interruption leaves a consistent session.
        self.state, self.best, self.counters, self.result = out.carry, best, counters, out.result
        self.history.append(record)
        if self.folder is not None:
            self.folder.record(record)
            if time.monotonic() - self.saved_at >= self.checkpoint_seconds:
                self._save()
        return out

    def _samples(self, key: PRNGKeyArray) -> OuterSamples:
        """The samples of `record_every` outer steps, stacked."""
        problem, every = self.step.problem, self.record_every
        step_key, outer_key, inner_key = jax.random.split(key, 3)
        num_steps, per_step = self.step.num_inner_steps, self.step.optimizer.samples_per_step
        steps = inner = None
        if num_steps:
            drawn = stack_samples(problem, step_key, every * num_steps, per_step)
            steps = jax.tree.map(lambda x: x.reshape(every, num_steps, *x.shape[1:]), drawn)
        num = self.step.method.num_batches
        if num is not None:
            inner = jax.tree.map(lambda x: x.reshape(every, num, *x.shape[1:]), problem.samples(inner_key, every * num))
        return OuterSamples(steps, problem.samples(outer_key, every), inner)

    def _complaint(self, out: Rollout) -> str | None:
        """The error of the last outer step of a record in which one had an error."""
        flags = out.info.hypergradient.solver
        wrong = np.flatnonzero(np.asarray(flags.diverged | flags.singular))
        if len(wrong) == 0:
            return None
        return self.step.method.diagnose(jax.tree.map(lambda x: x[wrong[-1]], out.info.hypergradient))[0]

    def _save(self) -> None:
        if self.folder is not None:
            self.folder.save((self.state, self.best), self.counters)
            self.saved_at = time.monotonic()


def _summary(info) -> dict[str, Any]:
    hypergradient = info.hypergradient
    means = {
        "outer_loss": info.outer_loss,
        "inner_loss": hypergradient.inner_loss,
        "inner_gradient_norm": hypergradient.inner_gradient_norm,
        "residual": hypergradient.residual,
    }
    sums = {
        "inner_steps": info.num_inner_steps,
        "diverged": hypergradient.solver.diverged | hypergradient.solver.singular,
        "indefinite": hypergradient.solver.indefinite,
    }
    return {k: _number(jnp.mean(v)) for k, v in means.items()} | {k: int(jnp.sum(v)) for k, v in sums.items()}


def _number(value: Any) -> float | None:
    """JSON has no NaN."""
    value = float(value)
    return value if math.isfinite(value) else None


def _note(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {record[name]:.4g}"
        for name in ("outer_loss", "inner_loss")
        if record[name] is not None
    )
