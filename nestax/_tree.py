"""Arithmetic on pytrees, and conversions of arrays. Inner products and updates are computed in float32 at least."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

Scalar = float | Float[Array, ""]


def default_float() -> Any:
    """float32, or float64 where `jax_enable_x64` is set."""
    return jnp.zeros(()).dtype


def as_float_array(x: ArrayLike) -> Float[Array, "..."]:
    """`x` as a floating-point array: arrays keep their floating-point dtype, all else gets the default one."""
    keeps = isinstance(x, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x, x.dtype if keeps else default_float())


def common_dtype(tree: PyTree, *more: Any) -> Any:
    """The dtype of all array leaves of `tree` (and of the dtypes in `more`) together, promoted as NumPy does."""
    with jax.numpy_dtype_promotion("standard"):  # explicit here, so it must not fail where promotion is strict
        return functools.reduce(jnp.promote_types, [*more, *(x.dtype for x in jax.tree.leaves(tree))])


def upcast_dtype(dtype: Any) -> Any:
    """The dtype to compute in: float32 at least. In bfloat16 0.999 is 1, and a state loses small gradients."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def upcast(tree: PyTree) -> PyTree:
    """Half-precision leaves as float32."""
    return jax.tree.map(lambda x: x.astype(upcast_dtype(x.dtype)), tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves of `tree` in the dtypes of those of `like`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def add_scaled(tree: PyTree, scale: Float[Array, ""], direction: PyTree) -> PyTree:
    """`tree + scale * direction`, leaf by leaf, in the dtypes of `tree`."""

    def leaf(x, d):
        dtype = upcast_dtype(x.dtype)
        return (x.astype(dtype) + scale.astype(dtype) * d.astype(dtype)).astype(x.dtype)

    return jax.tree.map(leaf, tree, direction)


def scaled(tree: PyTree, scale: Float[Array, ""]) -> PyTree:
    """`scale * tree`, leaf by leaf, in the dtypes of `tree`."""

    def leaf(x):
        dtype = upcast_dtype(x.dtype)
        return (scale.astype(dtype) * x.astype(dtype)).astype(x.dtype)

    return jax.tree.map(leaf, tree)


def dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """The inner product of two pytrees of equal structure, in their common dtype."""
    dtype = upcast_dtype(common_dtype((a, b)))
    parts = [jnp.sum(x.astype(dtype) * y.astype(dtype)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))]
    return jnp.sum(jnp.stack(parts))


def norm(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together."""
    return jnp.sqrt(dot(tree, tree))


def with_static(module: Any, **fields: Any) -> Any:
    """A copy of an Equinox module with other values of static fields, which are not checked anew."""
    copy = jax.tree.map(lambda x: x, module)
    for name, value in fields.items():
        object.__setattr__(copy, name, value)
    return copy


def check_same_structure(got: PyTree, expected: PyTree, name: str) -> None:
    """Raises `ValueError` unless both pytrees have the same structure, shapes and dtypes."""
    structure, wanted = jax.tree.structure(got), jax.tree.structure(expected)
    if structure != wanted:
        raise ValueError(f"`{name}` has the wrong pytree structure: got {structure}, expected {wanted}.")
    for (path, leaf), want in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
        if jnp.shape(leaf) != jnp.shape(want) or jnp.result_type(leaf) != jnp.result_type(want):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` has shape {jnp.shape(leaf)} and dtype {jnp.result_type(leaf)}, "
                f"expected shape {jnp.shape(want)} and dtype {jnp.result_type(want)}."
            )
