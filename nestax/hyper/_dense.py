"""Products with an inverse by factorization: of the whole curvature, or of some of its columns."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import decay
from ._inverse import AbstractInverse, solver_info

MAX_BYTES = 4 * 2**30
"""The largest matrix that `Exact` forms."""

_COLUMNS = 64  # products in one batch: bounds what the batched linearization keeps


class Exact(AbstractInverse):
    r"""The whole curvature, formed by one product per weight, and factorized: LU, or the pseudo-inverse.

    For up to a few thousand weights: $m$ products, $m^2$ numbers, $m^3$ operations; refused above 4 GiB.

    **Arguments:**

    - `pinv`: invert only on the eigenvectors whose eigenvalue is, in magnitude, above `rcond` times the largest. The
      honest choice for singular curvature (over-parameterized, dead units). Default `False`: LU with pivoting, and a
      curvature that is singular up to rounding is an error.
    - `rcond`: default `None`: $m$ times the rounding unit.
    """

    pinv: bool = eqx.field(static=True, default=False)
    rcond: Float[Array, ""] | None = eqx.field(
        default=None, converter=lambda x: None if x is None else decay(x, "rcond")
    )

    def solve(self, operator, vector, guess):
        del guess
        flat, unravel = ravel_pytree(vector)
        size, eps = flat.size, jnp.finfo(flat.dtype).eps
        if size * size * flat.dtype.itemsize > MAX_BYTES:
            raise ValueError(
                f"`Exact` would form a {size} × {size} matrix of {size * size * flat.dtype.itemsize / 2**30:.1f} GiB. "
                "Use `Neumann`, `CG` or `Nystrom`, which need only products."
            )
        matrix = _rows(operator, unravel, jnp.eye(size, dtype=flat.dtype))
        matrix = 0.5 * (matrix + matrix.T)
        if self.pinv:
            values, vectors = jnp.linalg.eigh(matrix)
            magnitude = jnp.abs(values)
            cut = size * eps if self.rcond is None else self.rcond.astype(flat.dtype)
            kept = magnitude > cut * jnp.max(magnitude)
            x = vectors @ (jnp.where(kept, 1 / jnp.where(kept, values, 1), 0) * (vectors.T @ flat))
            low, high = jnp.min(values), jnp.max(magnitude)
            condition = high / jnp.min(jnp.where(kept, magnitude, jnp.inf))
            negative = low < -size * eps * high
            info = solver_info(
                flat.dtype,
                size,
                min_rayleigh=low,
                largest_eigenvalue=high,
                indefinite=negative,
                condition=condition,
            )
            return unravel(x), info
        factors, pivots = jax.scipy.linalg.lu_factor(matrix)
        diagonal = jnp.abs(jnp.diagonal(factors))
        high, low = jnp.max(diagonal), jnp.min(diagonal)
        x = jax.scipy.linalg.lu_solve((factors, pivots), flat)
        info = solver_info(flat.dtype, size, singular=~(low > size * eps * high), condition=high / low)
        return unravel(x), info


class Nystrom(AbstractInverse):
    r"""The inverse of a low-rank approximation plus damping (Hataya and Yamada, 2023): with $k$ columns $B = C_{:,S}$
    at random and $W = C_{S,S}$,

    $$x = \frac v\rho - \frac1{\rho^2} B \left(W + \frac1\rho B^\top B\right)^{-1} B^\top v$$

    which inverts $B W^{-1} B^\top + \rho I$. $k$ products in one batch and no iteration; a method for the direction of
    the hypergradient, since $\rho$ sets its length along all that the columns do not see.

    **Arguments:**

    - `rank`: $k$, default 20; at most the number of weights.
    - `key`: which columns; fixed, so that a hypergradient is a function of its arguments.

    $\rho$ is the `damping` of `Implicit`, which must be positive here. $W$ is made symmetric, with $10^{-6}
    \operatorname{tr}(W)/k$ on its diagonal.
    """

    rank: int = eqx.field(static=True, default=20)
    key: PRNGKeyArray = eqx.field(default_factory=lambda: jax.random.key(0))

    def __check_init__(self):
        if self.rank < 1:
            raise ValueError(f"`Nystrom(rank=...)` must be at least 1, got {self.rank}.")

    @property
    def needs_damping(self):
        return True

    def solve(self, operator, vector, guess):
        del guess
        flat, unravel = ravel_pytree(vector)
        if self.rank > flat.size:
            raise ValueError(f"`Nystrom(rank={self.rank})` takes more columns than there are weights ({flat.size}).")
        chosen = jax.random.choice(self.key, flat.size, (self.rank,), replace=False)
        units = jnp.zeros((self.rank, flat.size), flat.dtype).at[jnp.arange(self.rank), chosen].set(1)
        columns = _rows(operator.product, unravel, units)  # row i is the column C e_i, since C is symmetric
        core = columns[:, chosen]
        core = 0.5 * (core + core.T)
        core = core + 1e-6 * jnp.trace(core) / self.rank * jnp.eye(self.rank, dtype=flat.dtype)
        rho = operator.damping.astype(flat.dtype)
        inner = jnp.linalg.solve(core + columns @ columns.T / rho, columns @ flat)
        x = flat / rho - columns.T @ inner / rho**2
        return unravel(x), solver_info(flat.dtype, self.rank)


def _rows(product, unravel, rows):
    """The product of every row of `rows` with the curvature, some at a time."""

    def one(row):
        return ravel_pytree(product(unravel(row)))[0].astype(row.dtype)

    return jax.lax.map(one, rows, batch_size=min(_COLUMNS, rows.shape[0]))
