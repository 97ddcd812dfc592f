"""Bilinear and quadratic convex-concave games of any two dimensions, with their saddle sets and resolvents."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from .._checks import check_finite, count, is_concrete
from .._resolvent import AbstractResolvent, check_step_size
from .._tree import as_float_array, default_float
from ._saddle import AbstractSaddleProblem, Interval, Point, uniform_start

Vectors = tuple[Float[Array, " rows"], Float[Array, " columns"]]


class BilinearResolvent(AbstractResolvent):
    r"""$J(x, y) = (p, q)$ with $p + \alpha A q = x$ and $q - \alpha A^\top p = y$; the smaller player is solved for.

    Eliminating $q$ gives $p = (I + \alpha^2 A A^\top)^{-1} (x - \alpha A y)$ and $q = y + \alpha A^\top p$; eliminating
    $p$ gives $q = (I + \alpha^2 A^\top A)^{-1} (y + \alpha A^\top x)$ and $p = x - \alpha A q$.
    """

    scaled: Float[Array, "rows columns"]  # alpha A
    inverse: Float[Array, "small small"]

    @staticmethod
    def of(matrix: Float[Array, "rows columns"], step_size: Float[Array, ""]) -> "BilinearResolvent":
        scaled = step_size.astype(matrix.dtype) * matrix
        gram = scaled @ scaled.T if matrix.shape[0] <= matrix.shape[1] else scaled.T @ scaled
        return BilinearResolvent(scaled, jnp.linalg.inv(jnp.eye(len(gram), dtype=gram.dtype) + gram))

    def __call__(self, players: Vectors) -> Vectors:
        x, y = players
        scaled, inverse = self.scaled.astype(x.dtype), self.inverse.astype(x.dtype)
        if scaled.shape[0] <= scaled.shape[1]:
            p = inverse @ (x - scaled @ y)
            return p, y + scaled.T @ p
        q = inverse @ (y + scaled.T @ x)
        return x - scaled @ q, q


class BilinearGame(AbstractSaddleProblem):
    r"""The matrix game $\min_x \max_y x^\top A y$: purely adversarial, so that simultaneous gradient descent diverges.

    The joint gradient is $(A y, -A^\top x)$. The saddle set is $\ker A^\top \times \ker A$: the origin, and nothing
    else if $A$ is square and regular. The eigenvalues of the game Jacobian are $\pm i \sigma_j$ with the singular
    values $\sigma_j$ of $A$, and as many zeros as $A$ has more columns than rows (or rows than columns).

    Players are `(x, y)` of shapes `(rows,)` and `(columns,)`, in the dtype of `matrix`.

    **Arguments:**

    - `matrix`: $A$, shape `(rows, columns)`.
    - `start_bound`: `init` draws every coordinate uniformly from $[-s, s]$. Default `None`: from $N(0, 1)$.

    **Raises** `ValueError` for other shapes and for NaN or infinite values.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.BilinearGame(jnp.array([[3.0]]))
    >>> [complex(x) for x in problem.eigenvalues()]
    [3j, -3j]
    >>> seen = nx.problems.BilinearGame.random(jax.random.key(0))
    >>> unseen = nx.problems.BilinearGame.random(jax.random.key(0), entries=(-8.0, 8.0), density=1.0)

    ```
    """

    matrix: Float[Array, "rows columns"]
    start_bound: Float[Array, ""] | None

    def __init__(self, matrix: ArrayLike, start_bound: ArrayLike | None = None):
        self.matrix = as_float_array(matrix)
        if self.matrix.ndim != 2 or self.matrix.size == 0:
            raise ValueError(f"`matrix` must have shape (rows, columns), none of them 0, got {self.matrix.shape}.")
        check_finite(self.matrix, "matrix")
        self.start_bound = None if start_bound is None else as_float_array(start_bound).astype(self.matrix.dtype)

    @classmethod
    def random(
        cls,
        key: PRNGKeyArray,
        *,
        rows: int = 5,
        columns: int = 5,
        entries: Interval = (-1.0, 1.0),
        density: ArrayLike = 0.5,
        start_bound: ArrayLike | None = 0.5,
    ) -> "BilinearGame":
        r"""A game with independent entries: zero, or with the probability `density` uniform between `entries`.

        Defaults as published (Shen et al., ICLR 2021, section 4): 5 × 5, $A_{ij} \sim \mathrm{Bern}(0.5)\, U[-1, 1]$.
        The games on which their safeguard is tested have `entries=(-8, 8), density=1`. At density 0.5 many small
        matrices are singular, so that the origin is not the only saddle point.
        """
        shape = (count(rows, "rows"), count(columns, "columns"))
        value_key, mask_key = jax.random.split(key)
        low, high = (as_float_array(x) for x in entries)
        values = jax.random.uniform(value_key, shape, low.dtype, low, high)
        mask = jax.random.bernoulli(mask_key, density, shape)
        return cls(jnp.where(mask, values, jnp.zeros_like(values)), start_bound)

    def init(self, key: PRNGKeyArray) -> Vectors:
        rows, columns = self.matrix.shape
        if self.start_bound is not None:
            return uniform_start(key, ((rows,), (columns,)), self.start_bound)
        draw = jax.random.normal(key, (rows + columns,), self.matrix.dtype)
        return draw[:rows], draw[rows:]

    def payoff(self, players: Vectors, sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        return x @ (self.matrix.astype(x.dtype) @ y)

    def solution(self) -> Vectors:
        """A saddle point: the origin."""
        rows, columns = self.matrix.shape
        return jnp.zeros(rows, self.matrix.dtype), jnp.zeros(columns, self.matrix.dtype)

    def distances(self, players: Vectors) -> Point:
        r"""Of $x$ to $\ker A^\top$ and of $y$ to $\ker A$: the norms of the projections to the ranges of $A$, $A^\top$.

        Singular values below `10 * max(rows, columns)` units of rounding of the largest count as zero.
        """
        left, values, right = jnp.linalg.svd(self.matrix, full_matrices=False)
        regular = values > 10 * max(self.matrix.shape) * jnp.finfo(values.dtype).eps * values[0]
        parts = (left.T @ players[0].astype(values.dtype), right @ players[1].astype(values.dtype))
        x, y = (jnp.linalg.norm(jnp.where(regular, part, jnp.zeros_like(part))) for part in parts)
        return x, y

    def distances_to_origin(self, players: Vectors, order: int = 2) -> Point:
        r"""$\lVert x \rVert$ and $\lVert y \rVert$: the published measure, an upper bound of `distances`.

        **Arguments:** `order`: of the norm. Default 2, as published; the code that was released with it takes 1.
        """
        return jnp.linalg.norm(players[0], order), jnp.linalg.norm(players[1], order)

    def eigenvalues(self) -> Complex[Array, " dim"]:
        """The eigenvalues of the game Jacobian: the conjugate pairs, upper half first, then the zeros."""
        values = jnp.linalg.svd(self.matrix, compute_uv=False)
        upper = jax.lax.complex(jnp.zeros_like(values), values)
        zeros = jnp.zeros(abs(self.matrix.shape[0] - self.matrix.shape[1]), upper.dtype)
        return jnp.concatenate([upper, jnp.conj(upper), zeros])

    def resolvent(self, step_size: ArrayLike) -> BilinearResolvent:
        """In closed form; the inverse of the smaller side is computed once."""
        return BilinearResolvent.of(self.matrix, check_step_size(step_size))


class AffineResolvent(AbstractResolvent):
    r"""$J(u) = (I + \alpha M)^{-1} (u - \alpha v)$ for the joint gradient $M u + v$."""

    inverse: Float[Array, "dim dim"]
    shift: Float[Array, " dim"]  # alpha v

    def __call__(self, players: Vectors) -> Vectors:
        u = jnp.concatenate(players)
        out = self.inverse.astype(u.dtype) @ (u - self.shift.astype(u.dtype))
        return out[: players[0].size], out[players[0].size :]


class QuadraticGame(AbstractSaddleProblem):
    r"""$\min_x \max_y \tfrac12 x^\top P x + x^\top A y - \tfrac12 y^\top Q y + c^\top x - d^\top y$, convex-concave.

    $P$ and $Q$ are positive semidefinite. The joint gradient is $M u + v$ with $u = (x, y)$, $v = (c, d)$ and
    $M = \begin{pmatrix} P & A \\ -A^\top & Q \end{pmatrix}$; saddle points are its zeros.

    Players are `(x, y)` of shapes `(rows,)` and `(columns,)`, in the dtype of `coupling`; `init` draws every coordinate
    uniformly from $[-s, s]$ with $s$ = `start_bound`.

    **Arguments:**

    - `own`, `coupling`, `other`: $P$ `(rows, rows)`, $A$ `(rows, columns)`, $Q$ `(columns, columns)`.
    - `linear`: $(c, d)$. Default: zeros, so that the origin is a saddle point.
    - `start_bound`: $s$. Default 0.5.

    **Raises** `ValueError` for shapes that do not match, values that are not finite, and matrices $P$, $Q$ that are not
    symmetric positive semidefinite (not checked under a transformation).

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> linear = (jnp.array([3.0]), jnp.array([0.0, 1.0]))
    >>> problem = nx.problems.QuadraticGame(jnp.eye(1) * 2, jnp.array([[1.0, 0.0]]), jnp.eye(2), linear)
    >>> [v.round(4).tolist() for v in problem.solution()]
    [[-1.0], [-1.0, -1.0]]
    >>> random = nx.problems.QuadraticGame.random(jax.random.key(0), rows=3, columns=5, condition=100.0)

    ```
    """

    own: Float[Array, "rows rows"]
    coupling: Float[Array, "rows columns"]
    other: Float[Array, "columns columns"]
    linear: Vectors
    start_bound: Float[Array, ""]

    def __init__(
        self,
        own: ArrayLike,
        coupling: ArrayLike,
        other: ArrayLike,
        linear: tuple[ArrayLike, ArrayLike] | None = None,
        start_bound: ArrayLike = 0.5,
    ):
        self.coupling = as_float_array(coupling)
        if self.coupling.ndim != 2 or self.coupling.size == 0:
            raise ValueError(f"`coupling` must have shape (rows, columns), none of them 0, got {self.coupling.shape}.")
        dtype, (rows, columns) = self.coupling.dtype, self.coupling.shape
        self.own, self.other = as_float_array(own).astype(dtype), as_float_array(other).astype(dtype)
        for name, matrix, size in (("own", self.own, rows), ("other", self.other, columns)):
            if matrix.shape != (size, size):
                raise ValueError(
                    f"`{name}` must have shape {(size, size)} beside a `coupling` of shape {self.coupling.shape}, got "
                    f"{matrix.shape}."
                )
            check_finite(matrix, name)
            if is_concrete(matrix):
                _check_semidefinite(np.asarray(matrix, np.float64), name, float(jnp.finfo(dtype).eps))
        check_finite(self.coupling, "coupling")
        linear = (jnp.zeros(rows, dtype), jnp.zeros(columns, dtype)) if linear is None else linear
        c, d = (as_float_array(v).astype(dtype) for v in linear)
        if c.shape != (rows,) or d.shape != (columns,):
            raise ValueError(f"`linear` must have shapes ({rows},) and ({columns},), got {c.shape} and {d.shape}.")
        self.linear, self.start_bound = (c, d), as_float_array(start_bound).astype(dtype)

    @classmethod
    def random(
        cls,
        key: PRNGKeyArray,
        *,
        rows: int = 5,
        columns: int = 5,
        condition: ArrayLike = 10.0,
        coupling: ArrayLike = 1.0,
        start_bound: ArrayLike = 0.5,
    ) -> "QuadraticGame":
        r"""A strongly convex-concave game in random coordinates.

        $P$, $Q$ have eigenvalues between $1 / \kappa$ and 1, uniform in the logarithm, with both ends among them where
        there are two or more (a single one is 1); $A$ has singular values drawn likewise, times `coupling`. Their bases
        are orthogonal and uniform, and the one saddle point is drawn as the initial point is.

        **Arguments:** `condition`: $\kappa$, at least 1. `coupling`: the largest singular value of $A$: 0 makes two
        minimization problems of it, and well above 1 rotation dominates.
        """
        rows, columns = count(rows, "rows"), count(columns, "columns")
        condition = as_float_array(condition)
        if is_concrete(condition) and not 1 <= condition < np.inf:
            raise ValueError(f"`condition` must be a finite number of at least 1, got {condition}.")
        keys, dtype = jax.random.split(key, 8), default_float()
        left, right = (
            jax.random.orthogonal(keys[0], rows, (), dtype),
            jax.random.orthogonal(keys[1], columns, (), dtype),
        )
        first, second = (jax.random.orthogonal(k, n, (), dtype) for k, n in zip(keys[2:4], (rows, columns)))
        p, q = (_spread(k, n, condition.astype(dtype)) for k, n in zip(keys[4:6], (rows, columns)))
        small = min(rows, columns)
        values = as_float_array(coupling).astype(dtype) * _spread(keys[6], small, condition.astype(dtype))
        own, other = (first * p[None]) @ first.T, (second * q[None]) @ second.T
        matrix = (left[:, :small] * values[None]) @ right[:, :small].T
        bound = as_float_array(start_bound).astype(dtype)
        x, y = uniform_start(keys[7], ((rows,), (columns,)), bound)
        linear = (-(own @ x + matrix @ y), matrix.T @ x - other @ y)
        return cls((own + own.T) / 2, matrix, (other + other.T) / 2, linear, bound)

    def init(self, key: PRNGKeyArray) -> Vectors:
        rows, columns = self.coupling.shape
        return uniform_start(key, ((rows,), (columns,)), self.start_bound)

    def payoff(self, players: Vectors, sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        p, a, q = (m.astype(x.dtype) for m in (self.own, self.coupling, self.other))
        c, d = (v.astype(x.dtype) for v in self.linear)
        return x @ (p @ x / 2 + a @ y + c) - y @ (q @ y / 2 + d)

    def jacobian(self) -> Float[Array, "dim dim"]:
        """$M$, the game Jacobian."""
        return jnp.block([[self.own, self.coupling], [-self.coupling.T, self.other]])

    def solution(self) -> Vectors:
        """The saddle point of least norm, if there is any (always, where $M$ is regular)."""
        u = -jnp.linalg.pinv(self.jacobian()) @ jnp.concatenate(self.linear)
        return u[: len(self.own)], u[len(self.own) :]

    def distances(self, players: Vectors) -> Point:
        """Of both players to the nearest saddle point: the parts of $M^+ (M u + v)$."""
        matrix = self.jacobian()
        u = jnp.concatenate(players).astype(matrix.dtype)
        away = jnp.linalg.pinv(matrix) @ (matrix @ u + jnp.concatenate(self.linear))
        return jnp.linalg.norm(away[: len(self.own)]), jnp.linalg.norm(away[len(self.own) :])

    def resolvent(self, step_size: ArrayLike) -> AffineResolvent:
        """In closed form; the inverse of $I + \\alpha M$, regular for every $\\alpha > 0$, is computed once."""
        matrix = self.jacobian()
        step_size = check_step_size(step_size).astype(matrix.dtype)
        inverse = jnp.linalg.inv(jnp.eye(len(matrix), dtype=matrix.dtype) + step_size * matrix)
        return AffineResolvent(inverse, step_size * jnp.concatenate(self.linear))


def _check_semidefinite(matrix: np.ndarray, name: str, eps: float) -> None:
    slack = 100 * len(matrix) * eps * max(float(np.abs(matrix).max()), 1e-300)
    if np.abs(matrix - matrix.T).max() > slack or np.linalg.eigvalsh(matrix).min() < -slack:
        raise ValueError(
            f"`{name}` must be symmetric positive semidefinite, so that the game is convex-concave; got eigenvalues "
            f"(of the symmetric part) {np.linalg.eigvalsh((matrix + matrix.T) / 2)}."
        )


def _spread(key: PRNGKeyArray, num: int, condition: Float[Array, ""]) -> Float[Array, " num"]:
    """`num` numbers between 1 / condition and 1, uniform in the logarithm; the ends are among them."""
    place = jax.random.uniform(key, (num,), condition.dtype).at[0].set(0)
    place = place.at[-1].set(1) if num > 1 else place
    return condition ** (-place)
