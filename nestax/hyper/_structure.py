"""What depends on what, read from a traced computation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jaxtyping import PyTree


def apply_and_trace(function: Callable[[PyTree], PyTree], argument: PyTree) -> tuple[PyTree, list[bool]]:
    """`function(argument)`, and of each of its leaves whether it depends on `argument` at all.

    A linear function does not depend on its argument exactly where it is zero by structure, as opposed to zero at this
    point. Read from the operations of its trace, so it costs nothing at run time. An operation is taken to use all of
    its inputs, so `False` is certain and `True` is not.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(argument)
    live: set[Any] = set(closed.jaxpr.invars)
    for equation in closed.jaxpr.eqns:
        if any(not isinstance(v, jax.extend.core.Literal) and v in live for v in equation.invars):
            live.update(equation.outvars)
    uses = [not isinstance(v, jax.extend.core.Literal) and v in live for v in closed.jaxpr.outvars]
    leaves = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves(argument))
    return jax.tree.unflatten(jax.tree.structure(out), [jnp.asarray(x) for x in leaves]), uses
