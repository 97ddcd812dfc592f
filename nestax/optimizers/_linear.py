"""A matrix-free least-squares solve on pytrees, with the number of its iterations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._tree import add_scaled, dot


def solve_normal(
    product: Callable[[PyTree], PyTree],
    transposed: Callable[[PyTree], PyTree],
    target: PyTree,
    tolerance: Float[Array, ""],
    max_steps: int,
    damping: Float[Array, ""] | None = None,
) -> tuple[PyTree, Int[Array, ""]]:
    r"""Solves $A x = b$ by conjugate gradients on $(A^\top A + \rho I) x = A^\top b$; also returns its iterations.

    For any nonsingular $A$, symmetric or not, definite or not: the normal operator is positive definite. Two products
    per iteration and four vectors of memory. Stops at a residual (of the normal equations) of `tolerance` times the
    right-hand side, or after `max_steps`. Derivatives are those of the exact solution.
    """

    def normal(x):
        out = transposed(product(x))
        return out if damping is None else add_scaled(out, damping, x)

    def conjugate_gradients(operator, rhs):
        norm = dot(rhs, rhs)
        target_norm = tolerance.astype(norm.dtype) ** 2 * norm

        def unfinished(carry):
            _, _, _, squared, steps = carry
            return (squared > target_norm) & (steps < max_steps)

        def iterate(carry):
            x, residual, direction, squared, steps = carry
            image = operator(direction)
            length = squared / dot(direction, image)
            x = add_scaled(x, length, direction)
            residual = add_scaled(residual, -length, image)
            new = dot(residual, residual)
            return x, residual, add_scaled(residual, new / squared, direction), new, steps + 1

        start = (jax.tree.map(jnp.zeros_like, rhs), rhs, rhs, norm, jnp.zeros((), jnp.int32))
        x, _, _, _, steps = jax.lax.while_loop(unfinished, iterate, start)
        return x, steps

    return jax.lax.custom_linear_solve(
        normal, transposed(target), solve=conjugate_gradients, symmetric=True, has_aux=True
    )
