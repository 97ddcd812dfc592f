"""The best hyperparameters of a method: a grid, then differential evolution from its best points.

Slower than the search of `nestax.dynamics.suggest`, and independent of it: that one is checked against this one.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

CERTAIN = 1e-9
"""A rate this close to 1 is 1: it converges in the limit of a vanishing step size only."""

_POPULATION = 64


def minimize(
    rate: Callable,
    values: np.ndarray,
    axes: Sequence[np.ndarray],
    bounds: Sequence[tuple[float, float]],
    *arguments: np.ndarray,
    known: Sequence[np.ndarray] = (),
    num_iterations: int = 400,
) -> tuple[float, np.ndarray]:
    r"""The smallest $\max_j \rho(\lambda_j; z)$ over points $z$, and where it is.

    The minimum is where several roots meet, at the bottom of a notch that points along no axis. A population that moves
    by differences of its own members (R. Storn, K. Price, *Differential evolution*, 1997) takes the shape of the notch.
    `rate` is a module-level function of (point, eigenvalues, *arguments); `axes` is the first grid, which the search
    may leave up to `bounds`; points that are `known` to be good join the population.
    """
    import scipy.optimize  # here, since it is slow to load

    def rates(points: np.ndarray) -> np.ndarray:
        padded = np.pad(points, ((0, -len(points) % _POPULATION), (0, 0)), "edge")  # one shape, so one compilation
        parts = [_worst(rate, p, values, arguments) for p in np.split(padded, len(padded) // _POPULATION)]
        return np.concatenate(parts)[: len(points)]

    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    stride = min(8, max(1, len(points) // _POPULATION))  # good ones, but not all from one spot
    kept = np.argsort(rates(points), kind="stable")[: stride * _POPULATION : stride]
    start = np.concatenate([*(point[None] for point in known), points[kept]])[:_POPULATION]
    found = scipy.optimize.differential_evolution(
        lambda x: rates(x.T),
        bounds,
        strategy="currenttobest1bin",
        init=start,  # pyright: ignore[reportArgumentType] (its stub says str)
        mutation=(0.3, 0.9),
        recombination=0.9,
        maxiter=num_iterations,
        tol=0,
        atol=1e-12,  # pyright: ignore[reportArgumentType] (its stub says int)
        polish=False,
        updating="deferred",
        vectorized=True,
        rng=0,
    )
    return float(found.fun), found.x


def polar(modulus: Float[Array, "*batch"], phase: Float[Array, "*#batch"]) -> Complex[Array, "*batch"]:
    """The complex number of this modulus and phase (radians)."""
    return jax.lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))


@functools.partial(jax.jit, static_argnums=0)
def _worst(rate, points, values, arguments):
    return jax.vmap(lambda point: jnp.max(rate(point, values, *arguments)))(points)
