"""Runs that are recorded: every iterate (`record`), or one measure of it (`follow`)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from .._gradients import evaluate_losses
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import AbstractOptimizer, StepInfo, losses_per_update
from .._problem import AbstractProblem, Players, Sample
from .._records import CHUNK
from .._rollout import AbstractCheckpoint, AbstractStep, Record, rollout
from .._solve import count_calls, stack_samples, start
from .._step import OptimizerStep
from ._measures import AbstractMeasure, Loss

Carry = tuple[Players, PyTree]
"""Players and optimizer state."""


class Trajectory(eqx.Module):
    r"""A run of $L$ steps with all of its iterates.

    - `problem`: what was optimized.
    - `players`: the players before each step and after the last one: a leading axis of length $L + 1$ on every leaf.
      NaN from a failure on. Where players move one after the other, $(x_t, y_{t-1})$, the point between the moves of
      step $t$, is in here too.
    - `samples`: the first sample of each step, and one for the point after the last; leading axis $L + 1$.
    - `losses`: every player's loss at each of these points, on its sample.
    - `info`: the steps' `StepInfo`s, leading axis $L$.
    """

    problem: AbstractProblem
    players: PyTree[Shaped[Array, "times ..."]]
    samples: Sample
    losses: Float[Array, "times players"]
    info: StepInfo | None = None

    @property
    def num_gradients(self) -> Int[Array, " times"]:
        """How many gradients had been evaluated by each time."""
        if self.info is None:
            raise ValueError("This trajectory has no `info`, so it does not know what it cost.")
        return cumulative(self.info.cost.gradients)

    def values(self, measure: AbstractMeasure) -> Float[Array, " times"]:
        """A measure of every iterate."""
        return jax.vmap(lambda players, sample: measure(self.problem, players, sample))(self.players, self.samples)


def record(
    optimizer: AbstractOptimizer,
    problem: AbstractProblem,
    carry: Carry,
    samples: Sample,
    num_steps: int,
    checkpoint: AbstractCheckpoint | None = None,
) -> tuple[Trajectory, Carry]:
    """Makes `num_steps` steps from `carry` and keeps all iterates, so for short runs of small problems.

    **Arguments:** `carry`: players and optimizer state. `samples`: with leading axes `(num_steps + 1,
    samples_per_step)`; the last entry is for the point after the last step. `checkpoint`: as in `rollout`.

    **Returns** the trajectory, and the carry at its end. Differentiable.
    """
    before = jax.tree.map(lambda x: x[:-1], samples)
    seen = jax.tree.map(lambda x: x[:, 0], samples)
    step = Record(OptimizerStep(problem, optimizer))
    out = rollout(step, carry, before, num_steps=num_steps, checkpoint=checkpoint, throw=False)
    info, after = out.info
    players = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), carry[0], after)
    last = evaluate_losses(problem, out.carry[0], jax.tree.map(lambda x: x[-1], seen))
    losses = jnp.concatenate([info.losses, jnp.stack(last)[None]])
    return Trajectory(problem, players, seen, losses, info), out.carry


def trajectory(problem: AbstractProblem, optimizer: AnyOptimizer, *, num_steps: int, key: PRNGKeyArray) -> Trajectory:
    """A run from its start, all of its iterates kept, so for short runs of small problems.

    The iterates are those of `nestax.solve` with the same key.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> run = nx.measures.trajectory(problem, nx.optimizers.sgd(0.1), num_steps=5, key=jax.random.key(0))
    >>> run.players[0].shape, run.values(nx.measures.GradientNorm()).shape
    ((6, 2), (6,))

    ```
    """
    optimizer = as_optimizer(optimizer)
    carry, samples, calls = _begin(problem, optimizer, num_steps, key)
    return record(optimizer, problem, carry, samples, calls)[0]


def _begin(problem: AbstractProblem, optimizer: AbstractOptimizer, num_steps: int, key: PRNGKeyArray):
    """The carry of a run, its samples (those that `nestax.solve` draws, and one for the point after the last step),
    and how many calls of the optimizer it takes."""
    calls = count_calls(optimizer, num_steps)
    players, state, sample_key = start(problem, optimizer, None, None, key)
    sizes = [min(CHUNK, calls - begin) for begin in range(0, calls, CHUNK)]
    drawn = [
        stack_samples(problem, jax.random.fold_in(sample_key, i), size, optimizer.samples_per_step)
        for i, size in enumerate([*sizes, 1])
    ]
    return (players, state), jax.tree.map(lambda *x: jnp.concatenate(x), *drawn), calls


class _Measured(AbstractStep):
    """A step whose info is `(measure after the step, StepInfo)`; `x` is its samples and the one of the next step."""

    step: OptimizerStep
    measure: AbstractMeasure

    def __call__(self, carry: Carry, x: tuple[Sample, Sample]) -> tuple[Carry, tuple[Any, StepInfo]]:
        samples, following = x
        carry, info = self.step(carry, samples)
        return carry, (self.measure(self.step.problem, carry[0], following), info)

    def iterate(self, carry: Carry) -> Players:
        return carry[0]


def follow(
    optimizer: AbstractOptimizer,
    problem: AbstractProblem,
    carry: Carry,
    samples: Sample,
    num_steps: int,
    measure: AbstractMeasure,
) -> tuple[Float[Array, " times"], Int[Array, " times"]]:
    """Makes `num_steps` steps from `carry` and keeps one number per step, in memory that does not grow with the
    problem.

    **Arguments:** as of `record`; `measure`: what is kept.

    **Returns** the measure before each update of the players and after the last one, NaN from a failure on, and how
    many gradients had been evaluated by then. Of a method that makes several updates per step, only losses are known
    between them; another measure stays what it was before the step.
    """
    before, seen = jax.tree.map(lambda x: x[:-1], samples), jax.tree.map(lambda x: x[:, 0], samples)
    step = OptimizerStep(problem, optimizer)
    if isinstance(measure, Loss):  # every step reports it anyway
        out = rollout(step, carry, before, num_steps=num_steps, throw=False)
        last = measure(problem, out.carry[0], jax.tree.map(lambda x: x[-1], seen))
        last = jnp.where(out.num_steps == num_steps, last, jnp.full_like(last, jnp.nan))
        info = out.info
        values = jnp.append(losses_per_update(info, optimizer.updates_per_step)[:, measure.player], last)
    else:
        first = measure(problem, carry[0], jax.tree.map(lambda x: x[0], seen))
        xs = (before, jax.tree.map(lambda x: x[1:], seen))
        out = rollout(_Measured(step, measure), carry, xs, num_steps=num_steps, throw=False)
        after, info = out.info
        values = jnp.concatenate([first[None], after])
    updates = optimizer.updates_per_step
    repeats = num_steps * updates // (values.size - 1)
    values = jnp.append(jnp.repeat(values[:-1], repeats), values[-1])
    return values, cumulative(jnp.repeat(info.cost.gradients, updates)) // updates


def curve(
    problem: AbstractProblem,
    optimizer: AnyOptimizer,
    measure: AbstractMeasure,
    *,
    num_steps: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " times"], Int[Array, " times"]]:
    """One measure along a run from its start, in memory that does not grow with the problem.

    The run is that of `nestax.solve` with the same key, in one piece.

    **Returns** as `follow`, both of length `num_steps + 1`.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem, measure = nx.problems.Rosenbrock(), nx.measures.GradientNorm()
    >>> norms, costs = nx.measures.curve(problem, nx.optimizers.adam(0.1), measure, num_steps=9, key=jax.random.key(0))
    >>> norms.shape, int(costs[-1])
    ((10,), 9)

    ```
    """
    optimizer = as_optimizer(optimizer)
    carry, samples, calls = _begin(problem, optimizer, num_steps, key)
    return follow(optimizer, problem, carry, samples, calls, measure)


def cumulative(counts: Int[Array, " steps"]) -> Int[Array, " times"]:
    """The sums up to each time, from zero on."""
    return jnp.concatenate([jnp.zeros_like(counts[:1]), jnp.cumsum(counts)])
