"""Many runs at once: one of every problem of a family, by `vmap`, on one device or several."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from ._family import AbstractFamily, draw_runs
from ._mesh import num_devices, pad, replicate, shard, spread_padded
from ._optimizer import AbstractOptimizer
from ._records import CHUNK
from ._rollout import RESULTS, NumericalError


def run_many(
    solve: Callable[..., Any],
    family: AbstractFamily,
    optimizer: AbstractOptimizer,
    choices: PyTree,
    keys: Key[Array, " runs"],
    mesh: Mesh | None = None,
    **settings: Any,
) -> Any:
    """`solve(family.get(choice), optimizer, key=key, throw=False, **settings)` for all choices and keys, stacked.

    `mesh`: resolved; devices that share the runs.
    """
    family, optimizer, choices, keys = replicate(mesh, (family, optimizer, choices, keys))
    if settings["num_steps"] <= CHUNK * optimizer.updates_per_step:  # longer ones share a program between chunks
        return _compiled(solve, family, optimizer, choices, keys, tuple(settings.items()), mesh)
    (choices, keys), num = pad((choices, keys), num_devices(mesh))
    choices, keys = shard(mesh, (choices, keys))  # an annotation, which all chunks inherit
    many = _vmapped(solve, family, optimizer, tuple(settings.items()), choices, keys)
    return many if num == keys.size else jax.tree.map(lambda x: x[:num] if eqx.is_array(x) else x, many)


def _vmapped(solve, family, optimizer, settings, choices, keys):
    def one(choice, key):
        return solve(family.get(choice), optimizer, key=key, throw=False, **dict(settings))

    return eqx.filter_vmap(one)(choices, keys)


@eqx.filter_jit
def _compiled(solve, family, optimizer, choices, keys, settings, mesh):
    return spread_padded(mesh, jax.tree_util.Partial(_vmapped, solve, family, optimizer, settings), choices, keys)


def solve_family(
    solve: Callable[..., Any],
    family: AbstractFamily,
    optimizer: AbstractOptimizer,
    num_problems: int | None,
    key: PRNGKeyArray,
    throw: bool,
    **settings: Any,
) -> Any:
    """`solve` on problems drawn from a family, with `NumericalError` where it is to raise and a run failed."""
    choices, keys, num = draw_runs(family, num_problems, 1, key)
    solution = run_many(solve, family, optimizer, choices, keys, **settings)
    failed = solution.result != RESULTS.successful
    if throw and not isinstance(failed, jax.core.Tracer) and failed.any():
        raise NumericalError(
            f"{int(failed.sum())} of {num} runs became non-finite. Lower the learning rate, or pass `throw=False` and "
            "look at `result`."
        )
    return solution
