"""`solve`: an optimizer on a problem for as many steps as you like, in bounded memory."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._optax import AnyOptimizer, as_optimizer
from ._optimizer import AbstractOptimizer, StepInfo, losses_per_update
from ._problem import AbstractProblem, Players, Sample, check_players
from ._progress import progress_bar
from ._rollout import RESULTS, Rollout, blank, raise_failure, rollout, select
from ._step import OptimizerStep

CHUNK = 1_000
"""Steps per compiled call. Samples are drawn chunk by chunk, so this number is part of what a seed means."""


class Solution(eqx.Module):
    """What `solve` returns.

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
    problem: AbstractProblem,
    optimizer: AnyOptimizer,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    players: Players | None = None,
    state: PyTree | None = None,
    record_every: int = 1,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    """Runs `optimizer` on `problem` for `num_steps` updates.

    Long runs are driven in chunks of 1,000 steps, one compiled call each, so that 10⁶ steps need the memory of 1,000
    steps plus the records. `jax.vmap(lambda key: solve(..., key=key))(keys)` runs many seeds at once, chunk by chunk.

    **Arguments:**

    - `problem`: what to solve.
    - `optimizer`: an optimizer of `nestax`, or a finished Optax transformation such as `optax.adam(1e-3)`.
    - `num_steps`: updates of the players. A multiple of `optimizer.updates_per_step`.
    - `key`: a PRNG key; fixes the initial point, the samples and the optimizer's own randomness.
    - `players`: where to start; `None` means `problem.init`.
    - `state`: an optimizer state to go on from (with its `players`); `None` means `optimizer.init`.
    - `record_every`: keep one record per so many updates, in which floating-point entries are the mean over these
      updates (a smoothed loss), counts their sum, and all else the last value. Must divide `num_steps`, be a multiple
      or a divisor of `optimizer.updates_per_step`, and, in steps, divide 1,000 or be a multiple of it. Default 1: every
      update.
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
    updates = optimizer.updates_per_step
    calls = _count_calls(optimizer, num_steps)
    _check_recording(num_steps, updates, record_every)
    players, state, sample_key = start(problem, optimizer, players, state, key)
    every = max(record_every // updates, 1)  # steps per record
    window = min(every, CHUNK)  # a longer record is put together from whole chunks at the end
    rows = min(record_every, window * updates)  # of losses
    step = OptimizerStep(problem, optimizer)
    carry, infos, num_done, result = (players, state), [], 0, RESULTS.successful
    with progress_bar(num_steps, "solve", progress) as report:
        for index, begin in enumerate(range(0, calls, CHUNK)):
            size = min(CHUNK, calls - begin)
            xs = stack_samples(problem, jax.random.fold_in(sample_key, index), size, optimizer.samples_per_step)
            out = rollout(step, carry, xs, num_steps=size, throw=False)
            if isinstance(out.num_steps, jax.core.Tracer):
                out = _keep_failed(result == RESULTS.successful, carry, out)
            flat = eqx.tree_at(lambda i: i.losses, out.info, losses_per_update(out.info, updates))
            infos.append(_thin(flat, window, rows))
            carry, (num_done, result) = out.carry, _join(num_done, result, out, begin)
            report((begin + size) * updates, lambda losses=flat.losses: _mean_losses(losses))
            if not isinstance(out.num_steps, jax.core.Tracer) and out.result != RESULTS.successful:
                infos.append(_blank_records(infos[-1], (calls - begin - size) // window, updates * window // rows))
                break
    info = infos[0] if len(infos) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *infos)
    info = _thin(info, every // window, record_every // rows)
    solution = Solution(carry[0], carry[1], info, jnp.asarray(num_done * updates), result)
    if not isinstance(solution.num_steps, jax.core.Tracer):
        for message in optimizer.diagnose(solution.state):
            warnings.warn(message, stacklevel=2)
    return raise_failure(solution) if throw else solution


def start(problem, optimizer, players, state, key):
    """Players and optimizer state at the start of a run, where not given, and the key of its samples."""
    init_key, state_key, sample_key = jax.random.split(key, 3)
    players = check_players(_init(problem, init_key) if players is None else players)
    state = optimizer.init(problem, players, state_key) if state is None else state
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


def _count_calls(optimizer: AbstractOptimizer, num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
    calls, rest = divmod(num_steps, optimizer.updates_per_step)
    if rest:
        raise ValueError(
            f"{type(optimizer).__name__} makes {optimizer.updates_per_step} updates per step, so `num_steps` must be a "
            f"multiple of that; got {num_steps}."
        )
    return calls


def _check_recording(num_steps: int, updates: int, every: int) -> None:
    steps = max(every // updates, 1)
    fits = every >= 1 and num_steps % every == 0 and (every % updates == 0 or updates % every == 0)
    if not fits or (CHUNK % steps and steps % CHUNK):
        several = "" if updates == 1 else f", a multiple or a divisor of the {updates} updates of a step,"
        raise ValueError(
            f"`record_every` must be, in steps, a positive divisor (or a multiple) of {CHUNK}{several} and divide the "
            f"{num_steps} updates, got {every}."
        )


def _thin(info: StepInfo, every: int, rows: int) -> StepInfo:
    """One record of every so many steps, and of every so many rows of losses."""

    def windows(x, size):
        return x.reshape(-1, size, *x.shape[1:])

    def last_or_mean(x, size=every):
        if size == 1:
            return x
        x = windows(x, size)
        return x.mean(axis=1) if jnp.issubdtype(x.dtype, jnp.inexact) else x[:, -1]

    cost = jax.tree.map(lambda x: x if every == 1 else windows(x, every).sum(axis=1), info.cost)
    return StepInfo(last_or_mean(info.losses, rows), cost, jax.tree.map(last_or_mean, info.aux))


def _blank_records(info: StepInfo, num: int, losses_each: int) -> StepInfo:
    """The records of the steps that were not even tried after a failure, as a rollout blanks them."""

    def blanks(x, num=num):
        return blank(jnp.zeros((num, *x.shape[1:]), x.dtype))

    return eqx.tree_at(lambda i: i.losses, jax.tree.map(blanks, info), blanks(info.losses, num * losses_each))


def _mean_losses(losses: Float[Array, "updates players"]) -> str:
    return "" if isinstance(losses, jax.core.Tracer) else " ".join(f"{x:.4g}" for x in np.mean(losses[-100:], axis=0))
