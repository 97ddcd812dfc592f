"""Parts of a run and times of arrival, of arrays whose last axis counts steps from 0, the initial point, on.

Every function takes arrays of NumPy (recorded runs, in float64) and of JAX (inside compiled code) alike, and returns
arrays of the same kind.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Shaped

AnyArray = np.ndarray | jax.Array


def namespace(array: Any) -> Any:
    """`jax.numpy` for an array of JAX, else `numpy`."""
    return jnp if isinstance(array, jax.Array) else np


def tail(values: Shaped[AnyArray, "*batch times"], part: float) -> Any:
    """The values at the times from $(1 - \\mathrm{part}) L$ to $L$, both ends included: of a run of 1,000 steps and
    `part` 0.2 the last 201. With `part` 0 the last value alone."""
    if not 0 <= part <= 1:
        raise ValueError(f"`part` must be a share of the run between 0 and 1, got {part}.")
    return values[..., round((1 - part) * (values.shape[-1] - 1)) :]


def trailing_window(step: int) -> int:
    """How many of the latest losses a score at `step` averages: the last fifth of the run, at most 100."""
    return max(1, min(100, step // 5))


def first_below(values: Float[AnyArray, "*batch times"], tolerance: ArrayLike) -> Any:
    """The time from which the values stay below `tolerance` to the end; `inf` where there is none (NaN is above).

    **Arguments:** `tolerance`: a number, or an array that broadcasts against `values`.
    """
    xp = namespace(values)
    above = ~(values < tolerance)
    last = values.shape[-1] - 1 - xp.argmax(above[..., ::-1], axis=-1)
    dtype = values.dtype
    later = xp.where(above.any(axis=-1), last + 1, xp.zeros_like(last)).astype(dtype)
    return xp.where(above[..., -1], xp.full_like(later, np.inf), later)


def cost_at(costs: Int[AnyArray, "*batch times"], times: Float[AnyArray, "*batch"]) -> Any:
    """The cumulative costs at these times, such as those of `first_below`; `inf` stays."""
    xp = namespace(times)
    reached = xp.isfinite(times)
    index = xp.where(reached, times, xp.zeros_like(times)).astype(int)
    found = xp.take_along_axis(costs, index[..., None], axis=-1)[..., 0].astype(times.dtype)
    return xp.where(reached, found, xp.full_like(found, np.inf))


def median_and_ninety(values: Float[AnyArray, "..."]) -> tuple[float, float]:
    """The median and the 90th percentile of times or costs: values of the sample, so that infinite ones do no harm."""
    flat = np.sort(np.asarray(values), axis=None)
    if not flat.size:
        raise ValueError("`values` must hold at least one number, got none.")
    if np.isnan(flat[-1]):  # sorted behind all others
        raise ValueError("`values` must be numbers, or infinite where something never happened; got NaN.")
    return float(flat[math.ceil(0.5 * flat.size) - 1]), float(flat[math.ceil(0.9 * flat.size) - 1])
