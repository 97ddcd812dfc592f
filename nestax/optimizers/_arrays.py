"""Small arithmetic on pytrees that the optimizers of games share: half precision is computed in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._problem import common_dtype

Scalar = float | Float[Array, ""]


def as_scalar(value: Any) -> Any:
    """A floating-point array leaf. Passes anything that JAX traces or batches through."""
    return jnp.asarray(value, float) if isinstance(value, float | int | np.floating) else value


def wide(dtype: Any) -> Any:
    """The dtype to compute in: float32 at least."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def widen(tree: PyTree) -> PyTree:
    """Half-precision leaves as float32."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), tree)


def add_scaled(tree: PyTree, scale: Float[Array, ""], direction: PyTree) -> PyTree:
    """`tree + scale * direction`, leaf by leaf, computed in float32 at least, in the dtypes of `tree`."""

    def leaf(x, d):
        dtype = wide(x.dtype)
        return (x.astype(dtype) + scale.astype(dtype) * d.astype(dtype)).astype(x.dtype)

    return jax.tree.map(leaf, tree, direction)


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """The inner product of two pytrees of equal structure, in their common dtype (float32 at least)."""
    dtype = wide(common_dtype((a, b)))
    parts = [jnp.sum(x.astype(dtype) * y.astype(dtype)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))]
    return jnp.sum(jnp.stack(parts))
