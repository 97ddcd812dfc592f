"""`tune`: training and hyperparameter optimization, one compiled step for both."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players
from .._report import Chart
from .._rollout import RESULTS, NumericalError, Rollout, rollout
from .._run import Options, Outcome, Session, number
from .._solve import stack_samples
from .._storage import name_of
from ..loggers import Callback
from ..optimizers import as_gradient_optimizer, as_optimizer
from ._hypergradient import check_pair
from ._method import LARGE_RESIDUAL, MORE_ACCURACY, AbstractMethod, Implicit
from ._minres import MINRES
from ._outer import OuterFailure, OuterSamples, OuterStep, TuningState
from ._tolerance import AbstractTolerance

Evaluate = Callable[[Players], dict[str, Any]]

_CHART = Chart(
    "tuning.png",
    {"outer_loss": "validation (outer) loss", "inner_loss": "training (inner) loss"},
    "step",
    "outer step",
    "loss",
)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `tune` returns.

    - `players`: hyperparameters and weights at the end.
    - `best`: those after the record with the lowest `criterion`.
    - `history`: one dictionary per record: `step` (outer steps so far), `outer_loss`, `inner_loss`,
      `inner_gradient_norm`, `residual` (means over the record's steps; `None` where not finite or not measured),
      `inner_steps`, `diverged`, `indefinite` (sums), `seconds`, and what `evaluate` returned.
    - `best_record`: the number of that record in `history`; `None` if none was finite.
    - `state`: a `TuningState`: all that another run would need to go on. Its players are those that the method works
      on: for a `Hypernetwork` the parameters of the response stand for the weights.
    - `num_steps`: successful outer steps.
    - `result`: a `RESULTS`; `message`: what went wrong where it is not `successful`, with outer step and tensor.
    """

    players: Players
    best: Players
    history: list[dict[str, Any]]
    best_record: int | None
    state: TuningState
    num_steps: int
    result: Any
    message: str


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
    config: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    progress: bool = False,
    callback: Callback | None = None,
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
    - `method`: default `Implicit(MINRES(warm_start=True))`. With a `Hypernetwork`, inner steps train the parameters of
      a learned best response; players are hyperparameters and weights all the same.
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
    - `run`: a new or empty folder for `config.json`, `metrics.jsonl`, checkpoints (at most `checkpoint_seconds` apart),
      and at the end a plot and a report. `resume=True` goes on from the last checkpoint, if there is one, and ends with
      the same players, bit for bit, as a run that was never interrupted. All arguments above must be what they were,
      but `num_outer_steps` may be larger.
    - `config`: JSON values to store beside the settings above; on resumption they must be the same.
    - `labels`: from the name of an argument to a text that stands for it on resumption; needed for those that hold
      something that cannot be compared, such as an open file.
    - `progress`: show a progress bar with the current losses.
    - `callback`: called after each record with it; tuning ends, resumable, when it returns true. A function, one of
      `nestax.loggers`, or a list of them.
    - `throw`: raise `NumericalError` where inner steps, the outer loss, or the players become inf or NaN; otherwise
      `result` and `message` say so, and the players are the last ones that were in order. The checkpoint is that of the
      last complete record.

    **Returns** a `Tuning`. Warns if a Neumann series diverged or a matrix was singular on the way, and where the
    relative residual of the linear systems is above 0.1 at the end.

    **Raises** `ValueError` for bad arguments, or a folder that holds a run, other files, or is in use;
    `CheckpointError` for a damaged checkpoint or one of another run; `NumericalError` as above.

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
    method = Implicit(MINRES(warm_start=True)) if method is None else method
    _check(num_outer_steps, num_inner_steps, record_every, patience, max_rounds, method)
    if state is not None and players is not None:
        raise ValueError("A `state` to go on from holds its players: pass one of both.")
    prepared = method.prepare(problem)
    step = OuterStep(
        prepared,
        _single(as_optimizer(optimizer)),
        as_gradient_optimizer(outer_optimizer, "outer_optimizer"),
        method,
        tolerance,
        num_inner_steps,
        max_rounds,
    )
    init_key, state_key, sample_key = jax.random.split(key, 3)
    given, initial = players, state
    if state is None:
        players = check_pair(problem, _init(problem, init_key) if players is None else players)
        players = method.start(prepared, players, jax.random.fold_in(init_key, 1))
        state = step.init(players, state_key)
    session = Session(
        "hyperparameter tuning",
        index="record",
        stages=((record_every, num_outer_steps // record_every),),
        arguments={
            "problem": problem,
            "optimizer": step.optimizer,
            "outer_optimizer": step.outer_optimizer,
            "num_inner_steps": num_inner_steps,
            "key": key,
            "method": method,
            "players": given,
            "state": initial,
            "tolerance": tolerance,
            "max_rounds": max_rounds,
            "record_every": record_every,
            "evaluate": evaluate,
            "criterion": criterion,
            "patience": patience,
        },
        state=state,
        best=method.original(prepared, state.players),
        options=Options(run, resume, checkpoint_seconds, config, labels, callback, progress),
    )
    records = _Records(step, session, sample_key, record_every, evaluate, criterion, patience)
    with session:
        session.drive(records.advance, _note, records.stalled)
        return records.finish(throw)


def _check(num_outer_steps, num_inner_steps, record_every, patience, max_rounds, method) -> None:
    if num_outer_steps < 1:
        raise ValueError(f"`num_outer_steps` must be at least 1, got {num_outer_steps}.")
    if num_inner_steps < 0:
        raise ValueError(f"`num_inner_steps` must not be negative, got {num_inner_steps}.")
    if not isinstance(method, AbstractMethod):
        raise ValueError(f"`method` must be a hypergradient method such as `Implicit()`, got {method!r}.")
    if num_inner_steps == 0 and method.needs_inner_steps:
        raise ValueError(
            f"With `num_inner_steps=0` nothing trains the weights: {type(method).__name__} leaves them alone. Take at "
            "least 1 step; or `Unrolled`, whose steps train; or a `Hypernetwork` that was `fitted` before."
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


class _Records:
    """The outer steps of one tuning, as records of a session."""

    def __init__(self, step, session, key, record_every, evaluate, criterion, patience):
        self.step: OuterStep = step
        self.session: Session = session
        self.key = key
        self.record_every = record_every
        self.evaluate = None if evaluate is None else eqx.filter_jit(evaluate)
        self.criterion = criterion
        self.patience = patience
        self.advice: str | None = None

    def stalled(self) -> bool:
        """Whether the best record is long ago."""
        best = self.session.best_record
        return self.patience is not None and self.session.num_records - (-1 if best is None else best) > self.patience

    def advance(self, state: TuningState, index: int) -> Outcome:
        started = time.monotonic()
        xs = self._samples(jax.random.fold_in(self.key, index))
        out = rollout(self.step, state, xs, num_steps=self.record_every, throw=False)
        self.advice = self._advice(out) or self.advice
        if out.result != RESULTS.successful:
            return Outcome(out.carry, None, failure=self._failure(out, xs))
        record = {"record": index, "step": int(out.carry.count), **_summary(out.info)}
        method = self.step.method
        players = method.original(self.step.problem, out.carry.players)
        record |= {name: number(value) for name, value in method.measure(out.carry.players).items()}
        if self.evaluate is not None:
            record |= {name: number(value) for name, value in self.evaluate(players).items()}
        record["seconds"] = round(time.monotonic() - started, 4)
        if self.criterion not in record:
            raise ValueError(
                f"`criterion` is {self.criterion!r}, but a record holds {', '.join(map(repr, record))}. Let `evaluate` "
                "return it."
            )
        return Outcome(out.carry, record, record[self.criterion], players)

    def finish(self, throw: bool) -> Tuning:
        session, history = self.session, self.session.history
        state: TuningState = session.state
        if session.failure and throw:
            kept = "" if session.folder is None else f" The last good checkpoint is in {session.folder}."
            raise NumericalError(f"Tuning failed: {session.failure}.{kept}")
        if not session.failure:
            session.report(_CHART, _lines(history))
        if self.advice is not None:
            warnings.warn(f"In {sum(r['diverged'] for r in history)} outer steps: {self.advice}", stacklevel=3)
        large = [r["residual"] for r in history if (r["residual"] or 0) > LARGE_RESIDUAL]
        if large and (history[-1]["residual"] or 0) > LARGE_RESIDUAL:
            warnings.warn(
                f"In {len(large)} of {len(history)} records the linear systems were solved to a relative residual "
                f"above {LARGE_RESIDUAL} only, at last {large[-1]:.2g}: the hypergradients may be far off. "
                f"{MORE_ACCURACY}",
                stacklevel=3,
            )
        if history and session.best_record is None:
            warnings.warn(f"No record had a finite `criterion`, {self.criterion!r}: `best` is the start.", stacklevel=3)
        advice = self.step.method.review(state.players)
        if advice is not None:
            warnings.warn(advice, stacklevel=3)
        players = self.step.method.original(self.step.problem, state.players)
        result = RESULTS.nonfinite if session.failure else RESULTS.successful
        num_steps, best = int(state.count), session.best_record
        return Tuning(players, session.best, history, best, state, num_steps, result, session.failure)

    def _failure(self, out: Rollout, xs: OuterSamples) -> str:
        """What became inf or NaN: the failed step is taken again, to see what `rollout` keeps from its carry."""
        sample = jax.tree.map(lambda x: x[int(out.num_steps)], xs)
        wrong = _reasons(self.step, out.carry, sample)
        count = int(out.carry.count)
        if bool(wrong.inner):
            reason = "the inner steps led to inf or NaN. Lower the learning rate of the weights"
        elif bool(wrong.outer_loss):
            reason = "the outer loss is inf or NaN. Look at it near the last players, or lower the learning rates"
        else:
            leaves = jax.tree_util.tree_leaves_with_path(wrong.players)
            paths = [path for path, bad in leaves if bool(bad)]
            which = "the weights'" if paths and paths[0][0].idx else "the hyperparameters'"
            name = name_of(paths[0][1:]) if paths else ""
            reason = f"{which} '{name}' became inf or NaN" if name else f"{which} update led to inf or NaN"
            reason += ". Lower the outer learning rate, or look at the hypergradient there"
        return f"after {count} successful outer steps {reason}"

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

    def _advice(self, out: Rollout) -> str | None:
        """The error of the last outer step of a record in which one had an error."""
        flags = out.info.hypergradient.solver
        wrong = np.flatnonzero(np.asarray(flags.diverged | flags.singular))
        if len(wrong) == 0:
            return None
        return self.step.method.diagnose(jax.tree.map(lambda x: x[wrong[-1]], out.info.hypergradient))[0]


@eqx.filter_jit
def _reasons(step: OuterStep, state: TuningState, sample: OuterSamples) -> OuterFailure:
    return step.attempt(state, sample)[2]


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
    return {k: number(jnp.mean(v)) for k, v in means.items()} | {k: int(jnp.sum(v)) for k, v in sums.items()}


def _note(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {record[name]:.4g}"
        for name in ("outer_loss", "inner_loss")
        if record[name] is not None
    )


def _lines(history: list[dict[str, Any]]) -> list[str]:
    if not history:
        return []
    first, last = history[0], history[-1]
    return [
        f"{last['step']} outer steps in {sum(r['seconds'] for r in history):.0f} s. "
        f"Outer loss {_text(first['outer_loss'])} at first, {_text(last['outer_loss'])} at last; norm of the inner "
        f"gradient at last {_text(last['inner_gradient_norm'])}.",
        "",
        f"Steps with a divergent series: {sum(r['diverged'] for r in history)}; with negative curvature met: "
        f"{sum(r['indefinite'] for r in history)}.",
    ]


def _text(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
