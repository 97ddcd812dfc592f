"""What is recorded of a truncated unroll, and meta-objectives that look at more of it than the losses."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from .._gradients import evaluate_losses
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._rollout import AbstractCheckpoint, Record, rollout
from .._step import OptimizerStep

Carry = tuple[Players, PyTree]


class Unroll(eqx.Module):
    r"""An unroll of $L$ steps.

    - `problem`: what was optimized.
    - `players`: the players before each step and after the last one: a leading axis of length $L + 1$ on every leaf.
      Where players move one after the other, $(x_t, y_{t-1})$, the point between the moves of step $t$, is in here too.
    - `samples`: the first sample of each step, and one for the point after the last; leading axis $L + 1$.
    - `losses`: every player's loss at each of these points, on its sample.
    """

    problem: AbstractProblem
    players: PyTree[Shaped[Array, "length ..."]]
    samples: Sample
    losses: Float[Array, "length players"]


class AbstractMetaObjective(eqx.Module):
    """Maps an `Unroll` to one number, which meta-training makes small."""

    @abc.abstractmethod
    def __call__(self, unroll: Unroll) -> Float[Array, ""]:
        """Differentiated with respect to the players in `unroll`, which depend on the meta-parameters."""


def record(
    optimizer: AbstractOptimizer,
    problem: AbstractProblem,
    carry: Carry,
    samples: Sample,
    num_steps: int,
    checkpoint: AbstractCheckpoint | None = None,
) -> tuple[Unroll, Carry]:
    """Unrolls `num_steps` from `carry`; `samples` has leading axes `(num_steps + 1, samples_per_step)`."""
    before = jax.tree.map(lambda x: x[:-1], samples)
    seen = jax.tree.map(lambda x: x[:, 0], samples)
    step = Record(OptimizerStep(problem, optimizer))
    out = rollout(step, carry, before, num_steps=num_steps, checkpoint=checkpoint, throw=False)
    info, after = out.info
    players = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), carry[0], after)
    last = evaluate_losses(problem, out.carry[0], jax.tree.map(lambda x: x[-1], seen))
    return Unroll(problem, players, seen, jnp.concatenate([info.losses, jnp.stack(last)[None]])), out.carry
