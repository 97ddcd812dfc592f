"""Random restarts at a given total cost: what every search for several solutions has to beat."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem, Players
from ..._rollout import AbstractStep, rollout
from ..._solve import stack_samples
from ..._step import OptimizerStep


def restarts(
    problem: AbstractProblem, optimizer: AbstractOptimizer, key: PRNGKeyArray, num: int, num_steps: int
) -> tuple[Players, np.ndarray]:
    """The ends of `num` runs from random initial points, stacked, and their losses; NaN where a run diverged."""
    players, losses = _run(problem, optimizer, jax.random.split(key, num), num_steps)
    return players, np.asarray(losses)


class Ends(AbstractStep):
    """A step without its info: only the end is wanted."""

    step: AbstractStep

    def __call__(self, carry, x):
        return self.step(carry, x)[0], None

    def iterate(self, carry):
        return self.step.iterate(carry)


@eqx.filter_jit
def _run(problem, optimizer, keys, num_steps):
    def one(key):
        init_key, state_key, sample_key = jax.random.split(key, 3)
        players = problem.init(init_key)
        carry = (players, optimizer.init(problem, players, state_key))
        xs = stack_samples(problem, sample_key, num_steps, optimizer.samples_per_step)
        out = rollout(Ends(OptimizerStep(problem, optimizer)), carry, xs, num_steps=num_steps, throw=False)
        sample = jax.tree.map(lambda x: x[-1, 0], xs)
        losses = jnp.stack(problem.losses(out.carry[0], sample))
        return out.carry[0], jnp.where(out.num_steps == num_steps, losses, jnp.nan)

    return jax.lax.map(one, keys, batch_size=min(len(keys), 512))
