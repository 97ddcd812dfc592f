"""Truncated unrolls of several tasks at once."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from .._family import AbstractFamily, FixedProblem
from .._mesh import on_devices
from .._problem import AbstractProblem
from .._solve import stack_samples


def map_tasks(function: Callable, *args: PyTree, mesh: Mesh | None = None) -> PyTree:
    """`vmap` over the leading axis; for a single task without the batch axis, for which kernels are slower.

    `mesh`: devices that share the tasks, and divide them; `function` is then a `jax.tree_util.Partial`.
    """
    if mesh is not None:
        return on_devices(mesh, Partial(map_tasks, function), *args)
    if jax.tree.leaves(args)[0].shape[0] > 1:
        return jax.vmap(function)(*args)
    single = function(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: x[None], single)


class Batch(eqx.Module):
    """Truncated unrolls of several tasks, at their start.

    - `tasks`: where the problems come from.
    - `chosen`: tells them apart, as `AbstractFamily.select` returned it.
    - `state`: the estimator's state: of most estimators players and optimizer states.
    - `keys`: fix the samples, and the estimator's own randomness.
    - `num_steps`: steps of each unroll.

    All but the first and the last have a leading axis of tasks.
    """

    tasks: AbstractFamily
    chosen: PyTree
    state: PyTree
    keys: Key[Array, " tasks"]
    num_steps: int = eqx.field(static=True)

    @staticmethod
    def of(problem: AbstractProblem, state: PyTree, num_steps: int, key: PRNGKeyArray) -> "Batch":
        """One unroll on one problem."""
        stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], state)
        return Batch(FixedProblem(problem), key[None], stacked, key[None], num_steps)

    @property
    def num(self) -> int:
        """How many tasks there are."""
        return self.keys.shape[0]

    def map(self, function: Callable, samples_per_step: int) -> PyTree:
        """`function(problem, state, samples, key)` of every task, stacked.

        `samples`, with leading axes `(num_steps + 1, samples_per_step)`, are for all steps of the unroll and the point
        after them.
        """

        def one(choice, state, key):
            problem = self.tasks.get(choice)
            sample_key, key = jax.random.split(key)
            samples = stack_samples(problem, sample_key, self.num_steps + 1, samples_per_step)
            return function(problem, state, samples, key)

        return map_tasks(one, self.chosen, self.state, self.keys)

    def map_problems(self, function: Callable, *args: PyTree) -> PyTree:
        """`function(problem, *args)` of every task, with the task's entries of `args`."""
        return map_tasks(lambda choice, *a: function(self.tasks.get(choice), *a), self.chosen, *args)
