"""What the problems share about arrays: the default dtype, and values that may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def default_float() -> Any:
    """float32, or float64 where `jax_enable_x64` is set."""
    return jnp.zeros(()).dtype


def as_float_array(x: ArrayLike) -> Float[Array, "..."]:
    """`x` as a floating-point array: arrays keep their floating-point dtype, all else gets the default one."""
    keeps = isinstance(x, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x, x.dtype if keeps else default_float())


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` may be looked at, so not under a transformation."""
    return not isinstance(x, jax.core.Tracer)


def check_finite(x: ArrayLike, name: str) -> None:
    """Raises `ValueError` if an array holds NaN or inf. Does nothing under a transformation."""
    if is_concrete(x) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"`{name}` must be finite, got {np.asarray(x)}.")


def check_positive_int(x: Any, name: str, at_least: int = 1) -> int:
    """Returns `x` as an `int`, or raises `ValueError`."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer) or x < at_least:
        raise ValueError(f"`{name}` must be an integer of at least {at_least}, got {x!r}.")
    return int(x)
