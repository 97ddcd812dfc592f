"""Real coordinates of a pytree: what a derivative or a tangent frame of a step with complex state refers to."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

# The real part of a complex buffer is no complex-differentiable function of it, so a Jacobian in complex coordinates
# would not exist: a complex entry counts as two real ones.
from .._checks import describe


def ravel_real(tree: PyTree) -> tuple[Float[Array, " dim"], Callable[[Float[Array, " dim"]], PyTree]]:
    """All arrays of `tree` (floating-point or complex) as one real vector, and the way back.

    Leaves follow each other in pytree order; a complex leaf gives all its real parts, then all its imaginary parts. The
    vector has the widest dtype of the leaves, single precision at least.
    """
    real = jax.tree.map(lambda x: jnp.stack([x.real, x.imag]) if _is_complex(x) else x, tree)
    with jax.numpy_dtype_promotion("standard"):
        raveled, unravel = jax.flatten_util.ravel_pytree(real)
        flat = raveled.astype(jnp.promote_types(raveled.dtype, jnp.float32))

    def back(vector):
        parts = unravel(vector.astype(raveled.dtype))
        return jax.tree.map(lambda x, p: jax.lax.complex(p[0], p[1]) if _is_complex(x) else p, tree, parts)

    return flat, back


def coordinate_numbers(tree: PyTree) -> PyTree:
    """A tree like `tree` that holds, for every leaf, the places of its entries in the vector of `ravel_real`."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = [(2, *x.shape) if _is_complex(x) else x.shape for x in leaves]
    sizes = [int(np.prod(shape)) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    return structure.unflatten([np.arange(n) + start for n, start in zip(sizes, starts)])


def _is_complex(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def check_carry(carry: PyTree) -> None:
    """Raises `ValueError` for a carry without floating-point arrays, of which there is no derivative."""
    if not jax.tree.leaves(eqx.filter(carry, eqx.is_inexact_array)):
        raise ValueError(
            f"`carry` holds no floating-point arrays, so there is nothing to differentiate: {describe(carry)}."
        )
