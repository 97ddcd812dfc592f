"""Scalar hyperparameters of learned optimizers: array leaves in memory, plain numbers on disk."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def as_scalar(value: Any) -> Any:
    """A floating-point array leaf. Passes anything that JAX traces or batches through."""
    return jnp.asarray(value, float) if isinstance(value, float | int) else value


def to_float(value: Float[Array, "..."], name: str) -> float:
    """The number, for a header; `ValueError` for a batch of optimizers, which has several."""
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"`{name}` has shape {array.shape}: a batch of optimizers. Save its members one by one.")
    return float(array)
