"""The best hyperparameters of any method whose rate is known: a grid, then differential evolution from its best."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import count

_POPULATION = 64


def minimize_rate(
    rate: Callable,
    eigenvalues: ArrayLike,
    axes: Sequence[np.ndarray],
    bounds: Sequence[tuple[float, float]],
    *arguments: np.ndarray,
    known: Sequence[np.ndarray] = (),
    num_iterations: int = 400,
) -> tuple[float, np.ndarray]:
    r"""The smallest $\max_j \rho(\lambda_j; z)$ over the hyperparameters $z$ of a method, and where it is.

    For methods of your own; those that the library knows have `suggest`, which is faster and was checked against this
    search. The minimum is where several roots meet, at the bottom of a notch that points along no axis. A population
    that moves by differences of its own members takes the shape of the notch.

    **Arguments:**

    - `rate`: $\rho$, a function of `(point, eigenvalues, *arguments)` that returns a rate per eigenvalue, traceable by
        JAX. A function of a module, and not one made anew for each call, is compiled once.
    - `eigenvalues`: of the game Jacobian, shape `(dim,)`.
    - `axes`: the first grid, an array per hyperparameter.
    - `bounds`: the ends, up to which the search may leave the grid, per hyperparameter.
    - `arguments`: more arrays for `rate`.
    - `known`: points that join the population. Default: none.
    - `num_iterations`: generations. Default 400: the rates of momentum are then right to some eight digits.

    **Returns** the rate, and the point as an array.

    **Raises** `ValueError` unless there are as many `bounds` as `axes`, and at least five points on the grid.

    **Example**

    ```python
    >>> import jax.numpy as jnp, numpy as np, nestax as nx
    >>> def descent(point, values):
    ...     return nx.dynamics.gradient_rate(values, point[0])
    >>> grid, bounds = (np.linspace(0.1, 1.0, 10),), ((0.0, 2.0),)
    >>> rate, point = nx.dynamics.minimize_rate(descent, jnp.array([1.0 + 0j, 3.0]), grid, bounds)
    >>> round(rate, 4), point.round(4).tolist()
    (0.5, [0.5])

    ```

    **Source:** R. Storn, K. Price, *Differential evolution* (1997).
    """
    import scipy.optimize  # here, since it is slow to load

    if len(axes) != len(bounds) or not len(axes):
        raise ValueError(f"`bounds` must be a pair per axis, of which there are {len(axes)}, got {len(bounds)}.")

    def rates(points: np.ndarray) -> np.ndarray:
        padded = np.pad(points, ((0, -len(points) % _POPULATION), (0, 0)), "edge")  # one shape, so one compilation
        parts = [_worst(rate, p, eigenvalues, arguments) for p in np.split(padded, len(padded) // _POPULATION)]
        return np.concatenate(parts)[: len(points)]

    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    stride = min(8, max(1, len(points) // _POPULATION))  # good ones, but not all from one spot
    kept = np.argsort(rates(points), kind="stable")[: stride * _POPULATION : stride]
    start = np.concatenate([*(point[None] for point in known), points[kept]])[:_POPULATION]
    if len(start) < 5:
        raise ValueError(f"`axes` must span a grid of at least 5 points, got {len(points)}.")
    found = scipy.optimize.differential_evolution(
        lambda x: rates(x.T),
        bounds,
        strategy="currenttobest1bin",
        init=start,  # pyright: ignore[reportArgumentType] (its stub says str)
        mutation=(0.3, 0.9),
        recombination=0.9,
        maxiter=count(num_iterations, "num_iterations"),
        tol=0,
        atol=1e-12,  # pyright: ignore[reportArgumentType] (its stub says int)
        polish=False,
        updating="deferred",
        vectorized=True,
        rng=0,
    )
    return float(found.fun), found.x


@functools.partial(jax.jit, static_argnums=0)
def _worst(rate, points, values, arguments):
    return jax.vmap(lambda point: jnp.max(rate(point, values, *arguments)))(points)
