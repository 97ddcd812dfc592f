"""Scalar hyperparameters on disk."""

import numpy as np
from jaxtyping import Array, Float


def to_float(value: Float[Array, "..."], name: str) -> float:
    """The number, for a header; `ValueError` for a batch of optimizers, which has several."""
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"`{name}` has shape {array.shape}: a batch of optimizers. Save its members one by one.")
    return float(array)
