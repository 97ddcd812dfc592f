"""Many runs at once: one of every problem of a family, by `vmap`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from ._family import AbstractFamily, draw_runs
from ._optimizer import AbstractOptimizer
from ._records import CHUNK
from ._rollout import RESULTS, NumericalError


def run_many(
    solve: Callable[..., Any],
    family: AbstractFamily,
    optimizer: AbstractOptimizer,
    choices: PyTree,
    keys: Key[Array, " runs"],
    **settings: Any,
) -> Any:
    """`solve(family.get(choice), optimizer, key=key, throw=False, **settings)` for all choices and keys, stacked."""
    if settings["num_steps"] <= CHUNK * optimizer.updates_per_step:  # longer ones share a program between chunks
        return _compiled(solve, family, optimizer, choices, keys, tuple(settings.items()))
    return _vmapped(solve, family, optimizer, choices, keys, tuple(settings.items()))


def _vmapped(solve, family, optimizer, choices, keys, settings):
    def one(choice, key):
        return solve(family.get(choice), optimizer, key=key, throw=False, **dict(settings))

    return eqx.filter_vmap(one)(choices, keys)


_compiled = eqx.filter_jit(_vmapped)


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
