"""Suggestions of methods and hyperparameters for a game: the best rates for a given spectrum."""

import cmath
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import optimizers
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players, Sample
from ._analytic import extragradient_rate, gradient_rate, momentum_rate, optimistic_rate
from ._operators import game_jacobian
from ._spectrum import Spectrum, spectrum

_NUM_STARTS = 8  # local minima of the grid from which a local search starts
_NUM_FINALISTS = 2  # of these, how many are searched to the end
_AT_ONCE = 4_096  # points of the grid that are evaluated together
_CERTAIN = 1e-9  # a rate this close to 1 is 1: step sizes next to zero do nothing, up to rounding
_ROUNDING = 1e-5  # of eigenvalues in float32, relative to the largest
_MAX_MOMENTUM = 1 - 1e-6  # below 1 in float32, too
_SMALLEST = math.log(1e-8)  # of a step size and of 1 - |momentum|, in units of the largest eigenvalue


@dataclasses.dataclass(frozen=True)
class Suggestion:
    r"""A method with the hyperparameters that are best for a spectrum, and what to expect of them.

    - `method`: its name, one of `METHODS`.
    - `rate`: the factor per step by which the distance to the fixed point shrinks in the slowest direction; at least 1
      where the method does not converge.
    - `num_gradients`: gradients per step.
    - `learning_rate`: $\alpha$.
    - `momentum`: $\beta$, complex for complex momentum, `None` for methods without.
    - `extrapolation`: $\alpha'$, `None` for methods without.
    """

    method: str
    rate: float
    num_gradients: int
    learning_rate: float
    momentum: complex | None = None
    extrapolation: float | None = None

    @property
    def converges(self) -> bool:
        """True if the rate is below 1 by more than rounding."""
        return self.rate < 1 - _CERTAIN

    @property
    def rate_per_gradient(self) -> float:
        """The rate per gradient: comparable between methods."""
        return self.rate ** (1 / self.num_gradients)

    def optimizer(self) -> AbstractOptimizer:
        """The optimizer, ready for `nestax.solve`."""
        return _FAMILIES[self.method].make(self)

    def __str__(self) -> str:
        parts = [f"learning_rate={self.learning_rate:.4g}"]
        if self.momentum is not None:
            modulus, phase = cmath.polar(self.momentum)
            real = abs(self.momentum.imag) < 1e-6
            parts.append(
                f"momentum={self.momentum.real:.4g}" if real else f"momentum={modulus:.4g} exp({phase / math.pi:.4g}πi)"
            )
        if self.extrapolation is not None:
            parts.append(f"extrapolation={self.extrapolation:.4g}")
        rate = f"{self.rate_per_gradient:.6f} per gradient" if self.converges else "does not converge"
        return f"{self.method:<20} {rate:<22} {', '.join(parts)}"


@dataclasses.dataclass(frozen=True)
class Suggestions:
    """Suggestions sorted by rate per gradient, the fastest first. `print` shows a table; index by method name."""

    entries: tuple[Suggestion, ...]

    def __iter__(self) -> Iterator[Suggestion]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, method: str) -> Suggestion:
        for entry in self.entries:
            if entry.method == method:
                return entry
        raise KeyError(f"no suggestion for {method!r}, only for {', '.join(e.method for e in self.entries)}")

    @property
    def best(self) -> Suggestion:
        """The fastest per gradient."""
        return self.entries[0]

    def __str__(self) -> str:
        return "\n".join(str(entry) for entry in self.entries)


def _log_space(low: float, high: float, num: int) -> np.ndarray:
    return np.log(np.geomspace(low, high, num))


@dataclasses.dataclass(frozen=True)
class _Family:
    """A method with free hyperparameters, for eigenvalues of largest modulus 1.

    The coordinates of the search spread the good points evenly: logarithms of step sizes, log(1 - |momentum|), phase.
    """

    rate: Callable  # per step, of (eigenvalues, *coordinates)
    grid: tuple[np.ndarray, ...]  # of every free coordinate
    num_gradients: int
    hyperparameters: Callable  # from (largest modulus, *coordinates) to keyword arguments of `Suggestion`
    make: Callable[[Suggestion], AbstractOptimizer]
    fixed: tuple[float, ...] = ()  # the last coordinates, where they are not free
    contains: tuple[str, ...] = ()  # methods that are points of this one: it must not do worse


def _momentum_at(values, a, m, phase):
    modulus = -jnp.expm1(m)
    return momentum_rate(values, jnp.exp(a), jax.lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase)))


def _momentum_hyperparameters(scale: float, a: float, m: float, phase: float) -> dict[str, float | complex]:
    return {"learning_rate": math.exp(a) / scale, "momentum": cmath.rect(-math.expm1(m), phase)}


def _real_momentum(sign: int) -> _Family:
    return _Family(
        rate=_momentum_at,
        grid=(_log_space(1e-4, 4.5, 100), _log_space(1e-3, 1.0, 60)),
        num_gradients=1,
        hyperparameters=lambda scale, a, m, phase: {
            "learning_rate": math.exp(a) / scale,
            "momentum": complex(0.0 - sign * math.expm1(m)),
        },
        make=lambda s: optimizers.momentum(s.learning_rate, complex(s.momentum or 0).real),
        fixed=(0.0 if sign > 0 else math.pi,),
    )


def _make_complex(s: Suggestion) -> AbstractOptimizer:
    modulus, phase = cmath.polar(s.momentum or 0)
    return optimizers.complex_momentum(s.learning_rate, modulus, phase=phase)


def _extrapolation(scale: float, a: float, b: float) -> dict[str, float]:
    return {"learning_rate": math.exp(a) / scale, "extrapolation": math.exp(b) / scale}


# Step sizes are in units of the inverse of the largest eigenvalue, up to where the method diverges on every spectrum:
# gradient descent at 2, momentum at 4 (Polyak, 1964), extragradient at 8 (two steps of Chebyshev's method). There the
# extrapolation is 2 at most. For a single rotation it would best be infinite, but no game is linear that far away.
_FAMILIES = {
    "gradient descent": _Family(
        rate=lambda values, a: gradient_rate(values, jnp.exp(a)),
        grid=(_log_space(1e-4, 2.2, 400),),
        num_gradients=1,
        hyperparameters=lambda scale, a: {"learning_rate": math.exp(a) / scale},
        make=lambda s: optimizers.sgd(s.learning_rate),
    ),
    "momentum": _real_momentum(1),
    "negative momentum": _real_momentum(-1),
    "complex momentum": _Family(
        rate=_momentum_at,
        grid=(_log_space(1e-4, 4.5, 44), _log_space(1e-3, 1.0, 26), np.linspace(0, np.pi, 25)),
        num_gradients=1,
        hyperparameters=_momentum_hyperparameters,
        make=_make_complex,
        contains=("momentum", "negative momentum"),
    ),
    "extragradient": _Family(
        rate=lambda values, a, b: extragradient_rate(values, jnp.exp(a), jnp.exp(b)),
        grid=(_log_space(1e-4, 10.0, 120), _log_space(1e-3, 2.0, 80)),
        num_gradients=2,
        hyperparameters=_extrapolation,
        make=lambda s: optimizers.Extragradient(s.learning_rate, s.extrapolation),
    ),
    "optimistic gradient": _Family(
        rate=lambda values, a, b: optimistic_rate(values, jnp.exp(a), jnp.exp(b)),
        grid=(_log_space(1e-4, 4.0, 120), _log_space(1e-4, 2.0, 100)),
        num_gradients=1,
        hyperparameters=_extrapolation,
        make=lambda s: optimizers.OptimisticGradient(s.learning_rate, s.extrapolation),
    ),
}

METHODS = tuple(_FAMILIES)
"""The names of the methods that `suggest` compares."""


def suggest(
    problem: AbstractProblem,
    players: Players,
    sample: Sample = None,
    *,
    num: int | None = None,
    methods: Sequence[str] = METHODS,
) -> Suggestions:
    """The methods that converge fastest near a fixed point of this game, with their hyperparameters.

    The eigenvalues of the game Jacobian at `players`, and `suggest_from_eigenvalues`.

    **Arguments:**

    - `problem`, `players`, `sample`: as for `game_jacobian`; a fixed point, or a point near one.
    - `num`: for large games, as for `spectrum`: only so many eigenvalues of largest modulus. The small ones, which
      decide how slow a method is, are then not seen: the rates are too optimistic.
    - `methods`: which to compare. Default: all of `METHODS`.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.BilinearGame(jnp.array([[1.0]]))
    >>> suggestions = nx.dynamics.suggest(problem, problem.solution(), methods=["gradient descent", "extragradient"])
    >>> print(suggestions)
    extragradient        0.668740 per gradient  learning_rate=0.4, extrapolation=2
    gradient descent     does not converge      learning_rate=...

    ```
    """
    found = spectrum(game_jacobian(problem, players, sample), num)
    return suggest_from_eigenvalues(found, methods=methods)


def suggest_from_eigenvalues(
    eigenvalues: Spectrum | ArrayLike | Sequence[complex | float | int], *, methods: Sequence[str] = METHODS
) -> Suggestions:
    r"""The hyperparameters with which each method converges fastest on the slowest of the given eigenvalues.

    Minimizes $\max_j \rho(\lambda_j; \text{hyperparameters})$ with the closed forms `gradient_rate`, `momentum_rate`,
    `extragradient_rate` and `optimistic_rate`, players moving simultaneously. The minimum is often where several roots
    meet, at the bottom of a notch that no grid hits: so a coarse grid in one evaluation, then a local search (Nelder
    and Mead, 1965) from its best local minima. Computed in float64 whatever JAX is set to. Against finer searches the
    suggested rates were within 1 % in the number of steps; complex momentum, with three hyperparameters in a curved
    valley, is the least exact.

    Step sizes are searched between $10^{-8}$ and a few times the inverse of the largest eigenvalue; extragradient and
    the optimistic gradient extrapolate by twice that inverse at most, since further away no game is linear, and
    forwards only.

    Zeros (below $10^{-9}$ of the largest modulus) are left out: nothing happens in their directions. A point with an
    eigenvalue of negative real part is **repelling**: descent leaves it, as it should at a maximum. Methods that ascend
    would end there, and are not suggested.

    **Arguments:**

    - `eigenvalues`: of the game Jacobian: a `Spectrum` or numbers. Conjugates may be given or left out.
    - `methods`: which to compare. Default: all of `METHODS`.

    **Returns** `Suggestions`, sorted by rate per gradient.

    **Raises** `ValueError` for eigenvalues that are not finite or all zero, for a repelling point (a real part below
    $-10^{-5}$ of the largest modulus), and for unknown methods.

    **Example**

    ```python
    >>> import nestax as nx
    >>> best = nx.dynamics.suggest_from_eigenvalues([1.0, 100.0], methods=["momentum"]).best
    >>> print(f"{best.rate:.3f}")  # Polyak's (sqrt(100) - 1) / (sqrt(100) + 1)
    0.818

    ```
    """
    unknown = [name for name in methods if name not in _FAMILIES]
    if unknown or not methods:
        raise ValueError(f"`methods` must be some of {', '.join(METHODS)}; got {', '.join(unknown) or 'none'}.")
    given = eigenvalues.eigenvalues if isinstance(eigenvalues, Spectrum) else eigenvalues
    values = np.asarray(given, complex).reshape(-1)
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"`eigenvalues` must be one or more finite numbers, got {values}.")
    scale = float(np.max(np.abs(values)))
    if scale == 0:
        raise ValueError("All eigenvalues are zero: to first order nothing moves near this point.")
    values = values[np.abs(values) > 1e-9 * scale] / scale
    repelling = values.real < -_ROUNDING
    if np.any(repelling):
        lowest = scale * values.real.min()
        raise ValueError(
            f"This point is repelling: {np.sum(repelling)} of {values.size} eigenvalues of the game Jacobian have a "
            f"negative real part, down to {lowest:.3g}, so descent leaves it, and only ascent would end here. Look for "
            "another point, or see `nestax.dynamics.spectrum` for the directions."
        )
    values = np.unique(np.round(values.real + 1j * np.abs(values.imag), 13))  # conjugates have the same rates
    values = np.pad(values, (0, max(8, 1 << (values.size - 1).bit_length()) - values.size), "edge")  # few shapes
    optima, entries = {}, []
    with jax.enable_x64(True):
        for name in dict.fromkeys(methods):
            rate, point = _optimum(name, values, optima)
            family = _FAMILIES[name]
            hyperparameters = family.hyperparameters(scale, *map(float, point))
            modulus = abs(hyperparameters.get("momentum", 0))
            if modulus > _MAX_MOMENTUM:  # where nothing converges the search ends at its bounds
                hyperparameters["momentum"] *= _MAX_MOMENTUM / modulus
            entries.append(Suggestion(name, rate, family.num_gradients, **hyperparameters))
    return Suggestions(tuple(sorted(entries, key=lambda entry: entry.rate_per_gradient)))


def _optimum(name: str, values: np.ndarray, optima: dict[str, tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    """The best rate and where it is, all coordinates; `optima` holds what has been found already."""
    if name not in optima:
        family = _FAMILIES[name]
        optima[name] = _minimize(family, values, [_optimum(other, values, optima) for other in family.contains])
    return optima[name]


def _minimize(family: _Family, values: np.ndarray, known: list[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    import scipy.ndimage  # here, since few programs need it, and it takes longer to load than nestax
    import scipy.optimize

    mesh = np.stack(np.meshgrid(*family.grid, indexing="ij"), axis=-1)
    spacing = np.array([axis[1] - axis[0] for axis in family.grid])
    bounds = [(min(axis[0], _SMALLEST) if axis[0] < 0 else axis[0], axis[-1]) for axis in family.grid]

    def rates(points: np.ndarray) -> np.ndarray:
        points = np.hstack([points, np.broadcast_to(family.fixed, (len(points), len(family.fixed)))])
        if len(points) == 1:
            return np.asarray(_worst(family.rate, values, points))
        # one shape, so one compilation for all grids
        points = np.pad(points, ((0, -len(points) % _AT_ONCE), (0, 0)), "edge")
        return np.concatenate([_worst(family.rate, values, p) for p in np.split(points, len(points) // _AT_ONCE)])

    def search(point: np.ndarray, size: float, num_steps: int) -> tuple[float, np.ndarray]:
        simplex = np.vstack([point, point + size * np.diag(spacing)])
        options = {"initial_simplex": simplex, "xatol": 1e-9, "fatol": 1e-12, "maxiter": num_steps}
        out = scipy.optimize.minimize(
            lambda point: float(rates(point[None])[0]), point, method="Nelder-Mead", bounds=bounds, options=options
        )
        return float(out.fun), out.x

    on_grid = rates(mesh.reshape(-1, spacing.size))[: mesh[..., 0].size].reshape(mesh.shape[:-1])
    lowest = np.argwhere(on_grid == scipy.ndimage.minimum_filter(on_grid, size=3, mode="nearest"))
    lowest = sorted(map(tuple, lowest), key=lambda index: on_grid[index])[:_NUM_STARTS]
    found = sorted((search(mesh[index], 0.5, 80) for index in lowest), key=_rate)[:_NUM_FINALISTS] + known
    if min(map(_rate, found)) > 1 - _CERTAIN:  # no method of this family: nothing to refine
        return found[0][0], np.append(found[0][1], family.fixed)
    for size in (-0.3, 0.1, -0.03, 0.01):  # from where it ended, in case that the simplex collapsed too early
        found = [min((rate, point), search(point, size, 200), key=_rate) for rate, point in found]
    rate, point = min(found, key=_rate)
    return rate, np.append(point, family.fixed)


def _rate(pair: tuple[float, np.ndarray]) -> float:
    return pair[0]


@functools.partial(jax.jit, static_argnums=0)
def _worst(rate, values, points):
    """The rate of the slowest eigenvalue at each of many points in the coordinates of the search."""
    return jax.vmap(lambda point: jnp.max(rate(values, *point)))(points)
