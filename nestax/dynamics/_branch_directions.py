"""Along which directions a point branches: a component of the branching tree search."""

import abc
import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._game import Game
from ._singular import PowerIteration, random_frame
from ._spectrum import spectrum

_PLAYERS = 1e-5  # an eigenvector with a smaller component in the players moves none of them


@dataclasses.dataclass(frozen=True)
class Directions:
    """The directions along which a point may branch.

    - `vectors`: shape `(num, dim)`, rows of Euclidean length 1, in the players' coordinates.
    - `values`: shape `(num,)`, complex: the eigenvalue or singular value of each.
    - `num_gradients`: what it cost to find them.
    """

    vectors: np.ndarray
    values: np.ndarray
    num_gradients: float


class AbstractDirections(eqx.Module):
    """Finds directions at a point. The search goes along each in both senses."""

    @abc.abstractmethod
    def __call__(self, game: Game, flat: np.ndarray) -> Directions:
        """The directions at a point; none where nothing branches."""


class EigenDirections(AbstractDirections):
    r"""Eigenvectors of the step's Jacobian with $\lvert \lambda \rvert$ above a threshold: directions that repel.

    A complex pair gives two directions, the real and the imaginary part of its eigenvector; the conjugate gives the
    same ones again and is left out. Of an optimizer with state the players' part of the eigenvector is taken.

    **Arguments:**

    - `threshold`: default 1.
    - `num`: the so many largest eigenvalues, by Arnoldi's method. Default `None`: all, from the matrix.
    """

    threshold: float = eqx.field(static=True, default=1.0)
    num: int | None = eqx.field(static=True, default=None)

    def __call__(self, game, flat):
        operator = game.step_jacobian(flat)
        found = spectrum(operator, self.num)
        values, vectors = found.eigenvalues, found.eigenvectors[: game.dim]
        cost = _products(operator.size, self.num) * 2 * game.gradients_per_step
        chosen = np.abs(values) > self.threshold
        return _split(values[chosen], vectors[:, chosen], cost)


class SingularDirections(AbstractDirections):
    r"""Right-singular vectors of the step's Jacobian with $\sigma$ above a threshold: directions that are stretched.

    They are what an exponent of one step is made of; for a game they are not eigenvectors, and there may be fewer or
    more of them.

    **Arguments:**

    - `threshold`: default 1.
    - `num`: the so many largest ones, by power iteration. Default `None`: all, from the matrix.
    """

    threshold: float = eqx.field(static=True, default=1.0)
    num: int | None = eqx.field(static=True, default=None)

    def __call__(self, game, flat):
        operator = game.step_jacobian(flat)
        if self.num is None:
            matrix = np.asarray(operator.dense(), np.float64)
            if not np.all(np.isfinite(matrix)):
                return _none(game, operator.size * 2 * game.gradients_per_step)
            _, values, rows = np.linalg.svd(matrix)
            products = operator.size
        else:
            method = PowerIteration()
            frame = method.leading(
                lambda v: jnp.stack([operator.mv(c) for c in v.T], axis=1),
                lambda u: jnp.stack([operator.transpose_mv(c) for c in u.T], axis=1),
                random_frame(operator.size, self.num, operator.dtype),
            )
            values = np.array([float(jnp.linalg.norm(operator.mv(c))) for c in frame.T])
            rows, products = np.asarray(frame).T, sum(method.count_products(operator.size, self.num)) + self.num
        chosen = values > self.threshold
        vectors = rows[: len(values)][chosen][:, : game.dim].T
        return _split(values[chosen].astype(complex), vectors.astype(complex), products * 2 * game.gradients_per_step)


class NegativeCurvature(AbstractDirections):
    """Eigenvectors of the game Jacobian whose eigenvalue has a negative real part: of a loss, the ridges.

    **Arguments:**

    - `tolerance`: how negative. Default 1e-6.
    - `num`: the so many smallest ones, by Lanczos' or Arnoldi's method. Default `None`: all, from the matrix.

    **Source:** J. Parker-Holder et al., *Ridge Rider: finding diverse solutions by following eigenvectors of the
    Hessian*, NeurIPS 2020.
    """

    tolerance: float = eqx.field(static=True, default=1e-6)
    num: int | None = eqx.field(static=True, default=None)

    def __call__(self, game, flat):
        operator = game.game_jacobian(flat)
        found = spectrum(operator, self.num, which="SR")
        chosen = found.eigenvalues.real < -self.tolerance
        cost = 2.0 * _products(operator.size, self.num)
        return _split(found.eigenvalues[chosen], found.eigenvectors[:, chosen], cost)


class RandomDirections(AbstractDirections):
    """Random unit vectors, the same ones at every point: the control for all others.

    **Arguments:** `num`: how many. `seed`: default 0.
    """

    num: int = eqx.field(static=True)
    seed: int = eqx.field(static=True, default=0)

    def __call__(self, game, flat):
        vectors = np.random.default_rng(self.seed).normal(size=(self.num, game.dim))
        return Directions(
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.full(self.num, np.nan, complex), 0.0
        )


class AxisDirections(AbstractDirections):
    """The coordinate axes."""

    def __call__(self, game, flat):
        return Directions(np.eye(game.dim), np.full(game.dim, np.nan, complex), 0.0)


def _products(size: int, num: int | None) -> int:
    return size if num is None else min(size, max(20, 2 * num + 1))  # what Arnoldi's method spends before a restart


def _none(game: Game, cost: float) -> Directions:
    return Directions(np.zeros((0, game.dim)), np.zeros(0, complex), cost)


def _split(values: np.ndarray, vectors: np.ndarray, cost: float) -> Directions:
    """Real directions of eigenvectors in columns: real and imaginary part of one of each conjugate pair."""
    rows, out = [], []
    for value, column in zip(values, vectors.T):
        if np.linalg.norm(column) < _PLAYERS or not np.isfinite(value):
            continue
        if abs(value.imag) > 1e-12 * abs(value):
            parts = () if value.imag < 0 else (column.real, column.imag)
        else:
            parts = (column.real if np.linalg.norm(column.real) > np.linalg.norm(column.imag) else column.imag,)
        for part in parts:
            length = np.linalg.norm(part)
            if length > _PLAYERS:
                rows.append(part / length)
                out.append(value)
    return Directions(np.array(rows).reshape(len(rows), vectors.shape[0]), np.array(out, complex), cost)
