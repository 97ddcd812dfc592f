"""Comparisons of runs: whether one is no worse than the best of others, and how fast one converges."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from ._times import tail

Measured = tuple[Float[np.ndarray, "*runs"], Float[np.ndarray, "*runs"]]
"""Values, such as losses, and their standard errors. A run that failed has values that are not finite."""


def no_worse(ours: Measured, others: Sequence[Measured], deviations: float = 2.0) -> Bool[np.ndarray, "*runs"]:
    """Whether our values are at most the lowest of the others' plus `deviations` standard errors of the difference.

    Element by element: one seed at one time, say. A value that is not finite is worse than all others.

    **Arguments:**

    - `ours`: values and standard errors.
    - `others`: the same of every rival, at least one, of the same shape.
    - `deviations`: default 2, with which a run equal to its only rival fails in about 2 % of comparisons.

    **Raises** `ValueError` for no rival.

    **Example**

    ```python
    >>> import nestax as nx, numpy as np
    >>> error = np.full(3, 0.1)
    >>> nx.measures.no_worse((np.array([1.0, 1.2, 1.4]), error), [(np.ones(3), error), (np.full(3, 5.0), error)])
    array([ True,  True, False])

    ```
    """
    if not others:
        raise ValueError("`others` must hold at least one rival, got none.")
    (value, error), *rest = (_worst_if_failed(*one) for one in (ours, *others))
    values, errors = (np.stack(arrays) for arrays in zip(*rest))
    best = np.argmin(values, axis=0)[None]
    best_value, best_error = (np.take_along_axis(arrays, best, axis=0)[0] for arrays in (values, errors))
    return np.isfinite(value) & ~(value > best_value + deviations * np.hypot(error, best_error))


def convergence_rate(distances: Float[np.ndarray, "*runs times"], part: float = 0.5) -> Float[np.ndarray, "*runs"]:
    """The factor per step by which distances shrink, below 1 where they do: of a straight line through their logarithms
    over the last `part` of the times, by least squares."""
    late = np.log(tail(np.asarray(distances, np.float64), part))
    times = np.arange(late.shape[-1]) - (late.shape[-1] - 1) / 2
    return np.asarray(np.exp(late @ times / (times @ times)))


def _worst_if_failed(values: Float[np.ndarray, "*runs"], errors: Float[np.ndarray, "*runs"]) -> Measured:
    values, errors = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    return np.where(np.isfinite(values), values, np.inf), np.where(np.isfinite(errors), errors, 0.0)
