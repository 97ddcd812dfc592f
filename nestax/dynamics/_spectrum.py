"""Eigenvalues of Jacobians: dense for small games, Arnoldi for large ones, and what they say about the players."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ._operators import JacobianOperator

Which = Literal["LM", "LR", "SR", "LI"]
"""The choice of eigenvalues: of largest modulus, largest or smallest real part, largest imaginary part (in modulus)."""

_ORDERS = {"LM": lambda z: -abs(z), "LR": lambda z: -z.real, "SR": lambda z: z.real, "LI": lambda z: -abs(z.imag)}
_SYMMETRIC = {"LM": "LM", "LR": "LA", "SR": "SA"}  # the names that the solver for symmetric operators has for them
_ROUNDING = 1e-9  # relative to the largest eigenvalue: below this a real part counts as zero


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with right eigenvectors, on the host.

    - `eigenvalues`: complex, shape `(num,)`, those that were asked for first. NaN where the Jacobian was not finite, or
      where Arnoldi's method did not converge.
    - `eigenvectors`: complex, shape `(dim, num)`, columns of Euclidean length 1.
    - `blocks`: for every player the indices of its coordinates; the rest is an optimizer's state.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    blocks: tuple[np.ndarray, ...]

    @property
    def spectral_radius(self) -> float:
        """The largest modulus; NaN if any eigenvalue is."""
        return float(np.max(np.abs(self.eigenvalues)))

    def player_shares(self) -> np.ndarray:
        r"""The share of each player in each eigenvector, shape `(num, players)`, rows that sum to 1.

        $\lVert v_i \rVert_1 / \sum_j \lVert v_j \rVert_1$ over the players' blocks $v_i$ of the eigenvector $v$. It is
        0 or 1 where the players do not interact. Between that it depends on the units of the parameters: measuring one
        player's parameters in other units changes its share but no eigenvalue, so compare shares within a game only.
        NaN where an eigenvector has no component in the players.
        """
        sizes = np.stack([np.abs(self.eigenvectors[block]).sum(axis=0) for block in self.blocks], axis=1)
        totals = sizes.sum(axis=1, keepdims=True)
        return np.divide(sizes, totals, out=np.full_like(sizes, np.nan), where=totals > 0)

    def player_components(self) -> np.ndarray:
        """The Euclidean length of the players' part of each eigenvector, shape `(num,)`: 1 if there is no state."""
        return np.linalg.norm(self.eigenvectors[np.concatenate(self.blocks)], axis=0)

    def max_adversarialness(self) -> float:
        r"""The largest $\lvert \arg \lambda \rvert / (\pi / 2)$ of the eigenvalues with $\operatorname{Re} \lambda \ge
        0$: 0 for minimization, 1 for a purely adversarial game, between for what is between.

        Eigenvalues count whose eigenvector has a component of more than $10^{-5}$ in the players. It is the
        $\gamma_{\max}$ of `nestax.problems.InterpolatedGame`. NaN if no eigenvalue qualifies.

        **Source:** Lorraine et al., *Complex momentum for optimization in games*, AISTATS 2022. **Deviation:** there
        $\operatorname{Re} \lambda > 0$. In a bilinear game the real parts are zero up to rounding; so here real parts
        above $-10^{-9}$ of the largest modulus count as nonnegative, and eigenvalues smaller than that have no phase.
        """
        z, smallest = self.eigenvalues, _ROUNDING * self.spectral_radius
        chosen = z[(z.real >= -smallest) & (np.abs(z) > smallest) & (self.player_components() > 1e-5)]
        phases = np.minimum(np.abs(np.angle(chosen)) / (np.pi / 2), 1.0)
        return float(np.max(phases)) if phases.size else float("nan")


def spectrum(
    operator: JacobianOperator, num: int | None = None, *, which: Which = "LM", max_dense: int = 5_000
) -> Spectrum:
    r"""Eigenvalues and right eigenvectors of a Jacobian.

    **Arguments:**

    - `operator`: what `game_jacobian` or `step_jacobian` returned.
    - `num`: how many eigenvalues. Default `None`: all of them, from the dense matrix. A number: that many by Arnoldi's
      method with implicit restarts (Lanczos' where the operator is known to be symmetric), which needs products $J v$
      only; so many dimensions that this makes no sense (`num > size - 2`) fall back on the dense matrix.
    - `which`: which of them, and in what order: `"LM"` largest modulus (the default), `"LR"`/`"SR"` largest/smallest
      real part, `"LI"` largest imaginary part in modulus. Eigenvalues in the interior need the dense matrix. Arnoldi
      may cut a conjugate pair in two; ask for one more.
    - `max_dense`: the largest size for which a dense matrix is made. Default 5,000: 200 MB and minutes.

    **Returns** a `Spectrum`. Where the Jacobian is not finite all eigenvalues are NaN; where Arnoldi's method did not
    converge (eigenvalues close together: ask for more of them, or for `which` at the edge of the spectrum) some are.

    **Raises** `ValueError` for a dense matrix that is too large, or a `num` or `which` that does not exist.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.BilinearGame(jnp.array([[2.0]]))
    >>> spectrum = nx.dynamics.spectrum(nx.dynamics.game_jacobian(problem, problem.solution()))
    >>> print(f"{spectrum.spectral_radius:.3f} {spectrum.max_adversarialness():.3f}")
    2.000 1.000

    ```

    **Source:** the solvers are ARPACK's (R. B. Lehoucq, D. C. Sorensen, C. Yang, *ARPACK users' guide*, 1998), through
    SciPy; the start vector is fixed, so results repeat.
    """
    size = operator.size
    if which not in _ORDERS:
        raise ValueError(f"`which` must be one of {', '.join(_ORDERS)}, got {which!r}.")
    if num is not None and not 1 <= num <= size:
        raise ValueError(f"`num` must be between 1 and the size of the Jacobian, {size}, got {num}.")
    if num is not None and num <= size - 2:
        values, vectors = arnoldi(operator, num, which)
    elif size > max_dense:
        raise ValueError(
            f"The Jacobian has {size} rows, more than `max_dense={max_dense}`. Ask for a few eigenvalues, "
            "`spectrum(operator, num=20)`, which Arnoldi's method finds without the matrix, or raise `max_dense`."
        )
    else:
        values, vectors = _dense(operator)
    order = np.lexsort((-values.imag, np.round(_ORDERS[which](values), 12)))[:num]  # of a pair the upper one first
    return Spectrum(values[order], vectors[:, order], operator.blocks)


def _dense(operator: JacobianOperator) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.asarray(operator.dense(), np.float64)
    if not np.all(np.isfinite(matrix)):
        return np.full(len(matrix), np.nan, complex), np.full(matrix.shape, np.nan, complex)
    values, vectors = np.linalg.eigh(matrix) if operator.symmetric else np.linalg.eig(matrix)
    return values.astype(complex), vectors.astype(complex)


def arnoldi(operator: Any, num: int, which: Which, max_restarts: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of anything with the `mv`, `size`, `dtype` and `symmetric` of a `JacobianOperator`.

    NaN for those that have not converged after `max_restarts` (default: 10 times the size).
    """
    size, dtype = operator.size, operator.dtype
    import scipy.sparse.linalg  # here, since few programs need it, and it takes longer to load than nestax

    linear = scipy.sparse.linalg.LinearOperator(  # pyright: ignore[reportCallIssue]  (its stub is that of the base class)
        shape=(size, size),
        matvec=lambda v: np.asarray(operator.mv(jnp.asarray(v.reshape(size), dtype))),  # pyright: ignore[reportCallIssue]
        dtype=dtype,
    )
    start = np.random.default_rng(0).standard_normal(size).astype(dtype)
    out_values, out_vectors = np.full(num, np.nan, complex), np.full((size, num), np.nan, complex)
    if not np.all(np.isfinite(linear.matvec(start))):
        return out_values, out_vectors
    try:
        if operator.symmetric and which in _SYMMETRIC:
            found = scipy.sparse.linalg.eigsh(linear, num, which=_SYMMETRIC[which], v0=start, maxiter=max_restarts)
        else:
            found = scipy.sparse.linalg.eigs(linear, num, which=which, v0=start, maxiter=max_restarts)
        values, vectors = found[0], found[1]
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    out_values[: len(values)], out_vectors[:, : len(values)] = values, vectors
    return out_values, out_vectors
