"""`solve`: an optimizer on a problem for as many steps as you like, in bounded memory."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._optax import AnyOptimizer, as_optimizer
from ._optimizer import AbstractOptimizer, StepInfo
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
      floating-point entries are NaN and all others zero, as in a `Rollout`.
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
    - `record_every`: keep one record per so many steps, in which floating-point entries are the mean over these steps
      (a smoothed loss), counts their sum, and all else the last value. Must divide 1,000 or be a multiple of it, and
      divide the number of steps. Default 1: every step.
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
    calls = _count_calls(optimizer, num_steps)
    _check_recording(calls, record_every)
    players, state, sample_key = start(problem, optimizer, players, state, key)
    window = min(record_every, CHUNK)  # a longer record is put together from whole chunks at the end
    step = OptimizerStep(problem, optimizer)
    carry, infos, num_done, result = (players, state), [], 0, RESULTS.successful
    with progress_bar(calls * optimizer.updates_per_step, "solve", progress) as report:
        for index, begin in enumerate(range(0, calls, CHUNK)):
            size = min(CHUNK, calls - begin)
            xs = stack_samples(problem, jax.random.fold_in(sample_key, index), size, optimizer.samples_per_step)
            out = rollout(step, carry, xs, num_steps=size, throw=False)
            if isinstance(out.num_steps, jax.core.Tracer):
                out = _keep_failed(result == RESULTS.successful, carry, out)
            infos.append(_thin(out.info, window))
            carry, (num_done, result) = out.carry, _join(num_done, result, out, begin)
            report((begin + size) * optimizer.updates_per_step, lambda out=out: _mean_losses(out))
            if not isinstance(out.num_steps, jax.core.Tracer) and out.result != RESULTS.successful:
                infos.append(_blank_records(infos[-1], (calls - begin - size) // window))
                break
    info = infos[0] if len(infos) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *infos)
    info = _thin(info, record_every // window)
    solution = Solution(carry[0], carry[1], info, jnp.asarray(num_done * optimizer.updates_per_step), result)
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


def _check_recording(calls: int, every: int) -> None:
    if every < 1 or calls % every or (CHUNK % every and every % CHUNK):
        raise ValueError(
            f"`record_every` must be a positive divisor (or a multiple) of {CHUNK} and divide the {calls} steps, "
            f"got {every}."
        )


def _thin(info: StepInfo, every: int) -> StepInfo:
    if every == 1:
        return info

    def windows(x):
        return x.reshape(-1, every, *x.shape[1:])

    def last_or_mean(x):
        x = windows(x)
        return x.mean(axis=1) if jnp.issubdtype(x.dtype, jnp.inexact) else x[:, -1]

    thinned = jax.tree.map(last_or_mean, info)
    return eqx.tree_at(lambda i: i.cost, thinned, jax.tree.map(lambda x: windows(x).sum(axis=1), info.cost))


def _blank_records(info: StepInfo, num: int) -> StepInfo:
    """The records of the steps that were not even tried after a failure, as a rollout blanks them."""

    return jax.tree.map(lambda x: blank(jnp.zeros((num, *x.shape[1:]), x.dtype)), info)


def _mean_losses(out: Rollout) -> str:
    losses = out.info.losses
    return "" if isinstance(losses, jax.core.Tracer) else " ".join(f"{x:.4g}" for x in np.mean(losses[-100:], axis=0))
