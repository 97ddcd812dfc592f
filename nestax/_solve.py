"""`solve`: an optimizer on a problem for as many steps as you like, in bounded memory."""

import concurrent.futures
import warnings
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from . import loggers
from ._checks import count, prng_key
from ._family import AnyFamily, as_family
from ._many import solve_family
from ._optax import AnyOptimizer, as_optimizer
from ._optimizer import AbstractOptimizer, StepInfo
from ._problem import AbstractProblem, Players, Sample, check_players
from ._progress import progress_bar
from ._records import CHUNK, Records, pieces, record_sizes
from ._rollout import RESULTS, Rollout, blank, raise_failure, rollout, select
from ._step import OptimizerStep, check_state


class SolveRecord(dict[str, Any]):
    """The record that `solve` hands to its `callback`: a dictionary of numbers, and what it was taken from.

    The dictionary has `step`, the updates made so far, and the mean loss since the last record: `loss`, or with several
    players `loss_0`, `loss_1`, ... So it can be logged as it is. The attributes are on the device, not copied:

    - `players`, `state`: the iterate and the optimizer's state at this step, to evaluate or to keep.
    - `losses`: the mean losses as an array of shape `(players,)`.
    """

    players: Players
    state: PyTree
    losses: Float[Array, " players"]

    def __init__(self, step: int, losses: Float[Array, " players"], players: Players, state: PyTree):
        values = [float(x) for x in losses]
        names = ["loss"] if len(values) == 1 else [f"loss_{i}" for i in range(len(values))]
        super().__init__(step=step, **dict(zip(names, values)))
        self.players, self.state, self.losses = players, state, losses


class Solution(eqx.Module):
    """The result of `solve`.

    - `players`, `state`: the last finite iterate and the optimizer's state there.
    - `info`: the recorded `StepInfo`s, stacked; `info.losses` has shape `(records, players)`. From the failing step on
      floating-point entries are NaN and all others zero, as in a `Rollout`. Where a step is several updates, `losses`
      has a record per `record_every` updates, and all else at most one per step.
    - `num_steps`: how many updates were made.
    - `result`: a `RESULTS`.
    """

    players: Players
    state: PyTree
    info: StepInfo
    num_steps: Int[Array, ""]
    result: Any

    @property
    def losses(self) -> Float[Array, "*batch records players"]:
        """The recorded losses, one column per player."""
        return self.info.losses


def stack_samples(problem: AbstractProblem, key: PRNGKeyArray, num_steps: int, samples_per_step: int) -> Sample:
    """Draws the samples of `num_steps` steps, with leading axes `(num_steps, samples_per_step)`."""
    drawn = problem.samples(key, num_steps * samples_per_step)
    return jax.tree.map(lambda x: x.reshape(num_steps, samples_per_step, *x.shape[1:]), drawn)


def solve(
    problem: AnyFamily,
    optimizer: AnyOptimizer,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_problems: int | None = None,
    players: Players | None = None,
    state: PyTree | None = None,
    record_every: int = 1,
    callback: loggers.Callback | None = None,
    callback_every: int | None = None,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    """Runs `optimizer` on `problem` for `num_steps` updates.

    Long runs are driven in chunks of at most 1,000 steps, one compiled call each, so that 10⁶ steps need the memory of
    1,000 steps plus the records. `jax.vmap(lambda key: solve(..., key=key))(keys)` runs many seeds at once, chunk by
    chunk.

    **Arguments:**

    - `problem`: what to solve: a problem, or a family of problems (an `AbstractFamily`, or a function from a PRNG key
      to a problem), of which many are solved at once, in one compiled call. All entries of the `Solution` then have a
      leading axis of problems.
    - `optimizer`: an optimizer of `nestax`, or a finished Optax transformation such as `optax.adam(1e-3)`.
    - `num_steps`: updates of the players. A multiple of `optimizer.updates_per_step`.
    - `key`: a PRNG key; fixes the initial point, the samples and the optimizer's own randomness.
    - `num_problems`: of a family, how many problems to draw; `None` means all of a finite one.
    - `players`: where to start; `None` means `problem.init`.
    - `state`: an optimizer state to go on from (with its `players`); `None` means `optimizer.init`.
    - `record_every`: keep one record per so many updates, in which floating-point entries are the mean over these
      updates (a smoothed loss), counts their sum, and all else the last value. Must divide `num_steps`, and be a
      multiple or a divisor of `optimizer.updates_per_step`. Default 1: every update.
    - `callback`: called on the host after every `callback_every` updates and after the last one with a `SolveRecord`: a
      function, one of `nestax.loggers`, or a list of them. If it returns true, the run ends there, and the `Solution`
      holds what was done. It is not called after a failure, and changes nothing else: the samples stay the same.
    - `callback_every`: updates between two calls, a multiple or a divisor of `record_every`, and at most 1,000 steps
      are compiled into one call. Default `None`: after every compiled call.
    - `progress`: show a progress bar with the current losses.
    - `throw`: raise `NumericalError` on a non-finite iterate; otherwise the `Solution` says so in `result`.

    **Returns** a `Solution`. Warns of what the optimizer has to say about its final state (`diagnose`), such as a guard
    whose fallback makes things worse.

    **Raises** `ValueError` for bad arguments, players that are no floating-point arrays, or losses that are not
    scalars; `NumericalError` as above.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Rosenbrock()
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.05), num_steps=2_000, key=jax.random.key(0))
    >>> bool(solution.losses[-1, 0] < 1e-3)
    True

    ```
    """
    if state is not None and players is None:
        raise ValueError("A `state` to go on from belongs to the `players` that it was reached with: pass both.")
    optimizer = as_optimizer(optimizer)
    num_steps, record_every = count(num_steps, "num_steps"), count(record_every, "record_every")
    callback_every = None if callback_every is None else count(callback_every, "callback_every")
    loggers.check(callback)
    if not isinstance(problem, AbstractProblem):
        if players is not None or callback is not None:
            raise ValueError("Of a family many problems are solved at once, without `players`, `state` and `callback`.")
        settings = {"num_steps": num_steps, "record_every": record_every}
        return solve_family(
            solve, as_family(problem, "problem"), optimizer, num_problems, prng_key(key), throw, **settings
        )
    if num_problems is not None:
        raise ValueError("`num_problems` is for families of problems; this is one problem. Leave it out.")
    updates = optimizer.updates_per_step
    calls = count_calls(optimizer, num_steps)
    per_record, per_callback = record_sizes(num_steps, updates, record_every, callback_every)
    players, state, sample_key = start(problem, optimizer, players, state, prng_key(key))
    samples = _Samples(problem, sample_key, calls, optimizer.samples_per_step)
    records, step = Records(record_every, updates), OptimizerStep(problem, optimizer)
    carry: tuple[Players, PyTree] = (players, state)
    done, num_done, result, stopped, fresh = 0, 0, RESULTS.successful, False, []
    with progress_bar(num_steps, "solve", progress) as report:
        for size in pieces(calls, per_record, per_callback, samples.chunk):
            out = rollout(step, carry, samples.take(size), num_steps=size, throw=False)
            traced = isinstance(out.num_steps, jax.core.Tracer)
            if traced:
                out = _keep_failed(result == RESULTS.successful, carry, out)
            losses = records.add(out.info, size)
            carry, (num_done, result) = out.carry, _join(num_done, result, out, done)
            done += size
            report(done * updates, lambda losses=losses: _mean_losses(losses))
            if not traced and out.result != RESULTS.successful:
                break
            if callback is not None:
                fresh.append(losses)
                if per_callback is None or done % per_callback == 0 or done == calls:
                    _check_on_host(out)
                    record = SolveRecord(done * updates, jnp.concatenate(fresh).mean(axis=0), carry[0], carry[1])
                    stopped, fresh = loggers.call(callback, record), []
                    if stopped:
                        break
    info = records.finish(None if stopped else num_steps)
    solution = Solution(carry[0], carry[1], info, jnp.asarray(num_done * updates), result)
    if not isinstance(solution.num_steps, jax.core.Tracer):
        for message in optimizer.diagnose(solution.state):
            warnings.warn(message, stacklevel=2)
    return raise_failure(solution) if throw else solution


def _check_on_host(out: Rollout) -> None:
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(out)):
        raise ValueError(
            "`solve` calls its `callback` on the host, between compiled calls, so it cannot do so inside of `jit`, "
            "`vmap` or `grad`. Leave the callback out there, or loop over the runs in Python."
        )


class _Samples:
    """The samples of a run, drawn in chunks and handed out in pieces of any length up to a chunk."""

    def __init__(self, problem: AbstractProblem, key: PRNGKeyArray, num_steps: int, samples_per_step: int):
        traced = isinstance(key, jax.core.Tracer)
        most = CHUNK if problem.max_samples is None else min(max(problem.max_samples // samples_per_step, 1), CHUNK)
        self.chunk = chunk = CHUNK // most * most if traced else most  # compiled code is cut less finely

        def draw(begin: int) -> Sample:
            end = min(begin + chunk, num_steps)
            parts = [
                stack_samples(problem, jax.random.fold_in(key, at // most), min(most, end - at), samples_per_step)
                for at in range(begin, end, most)
            ]
            return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

        self._chunks = map(draw, range(0, num_steps, chunk))
        if problem.max_samples is not None and not traced:
            self._chunks = _ahead(self._chunks)
        self._sizes = (min(chunk, num_steps - begin) for begin in range(0, num_steps, chunk))
        self._held, self._size, self._used = None, 0, 0

    def take(self, num: int) -> Sample:
        """The samples of the next `num` steps."""
        if self._used == self._size:
            self._held, self._size, self._used = next(self._chunks), next(self._sizes), 0
        elif self._used + num > self._size:
            more = next(self._chunks)
            self._held = jax.tree.map(lambda x, y: jnp.concatenate([x[-self.chunk :], y]), self._held, more)
            self._used -= self._size - min(self._size, self.chunk)
            self._size = min(self._size, self.chunk) + next(self._sizes)
        start, self._used = self._used, self._used + num
        if num == self._size:
            return self._held
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, num), self._held)


def _ahead(items: Iterator[Sample]) -> Iterator[Sample]:
    """The items, each of them made in a thread of its own while the one before is used."""
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue] (a setting of the thread)

    def draw() -> tuple[Sample] | None:
        with jax.enable_x64(wide):
            return next(((item,) for item in items), None)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(draw)
        while (found := coming.result()) is not None:
            coming = pool.submit(draw)
            yield found[0]


def start(problem, optimizer, players, state, key):
    """Players and optimizer state at the start of a run, where not given, and the key of its samples."""
    init_key, state_key, sample_key = jax.random.split(key, 3)
    players = check_players(_init(problem, init_key) if players is None else players)
    if state is None:
        return players, optimizer.init(problem, players, state_key), sample_key
    check_state(state, problem, optimizer, players, state_key)
    return players, state, sample_key


@eqx.filter_jit  # apart from the optimizer's part, so that all optimizers on a problem share the compilation
def _init(problem, key):
    return problem.init(key)


def _keep_failed(healthy, carry: PyTree, out: Rollout) -> Rollout:
    """Under `vmap` all runs go on until the last chunk: one that failed in an earlier chunk must stay where it was."""
    blanks = jax.tree.map(blank, out.info)
    carry, info = select(jnp.asarray(healthy), (out.carry, out.info), (carry, blanks))
    return Rollout(carry, info, out.num_steps, out.result)


def _join(num_done, result, out: Rollout, start: int):
    """The totals after one more chunk, for a run of which every chunk before may have failed (under `vmap`)."""
    healthy = result == RESULTS.successful
    failed_now = RESULTS.where(jnp.array(start == 0), out.result, _later(out.result))
    return (
        jnp.where(healthy, num_done + out.num_steps, num_done),
        RESULTS.where(jnp.asarray(healthy), failed_now, result),
    )


def _later(result):
    """A failure at the first step of a later chunk is not a failure at the start of the run."""
    return RESULTS.where(result == RESULTS.nonfinite_start, RESULTS.nonfinite, result)


def count_calls(optimizer: AbstractOptimizer, num_steps: int) -> int:
    """The number of calls of `optimizer.step` for so many updates; `ValueError` where they do not come out even."""
    num_steps = count(num_steps, "num_steps")
    calls, rest = divmod(num_steps, optimizer.updates_per_step)
    if rest:
        raise ValueError(
            f"{type(optimizer).__name__} makes {optimizer.updates_per_step} updates per step, so `num_steps` must be a "
            f"multiple of that; got {num_steps}."
        )
    return calls


def _mean_losses(losses: Float[Array, "updates players"]) -> str:
    return "" if isinstance(losses, jax.core.Tracer) else " ".join(f"{x:.4g}" for x in np.mean(losses[-100:], axis=0))
