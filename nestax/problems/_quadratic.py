"""Convex (or saddle-shaped) quadratics with a given spectrum."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_finite, count, is_concrete
from .._problem import AbstractDeterministicProblem
from .._tree import as_float_array


class Quadratic(AbstractDeterministicProblem):
    r"""$f(x) = \tfrac12 (x - x^*)^\top H (x - x^*)$ with $H = U \operatorname{diag}(h) U^\top$.

    Players are `(x,)` with `x` of shape `(dim,)`; `init` draws $x \sim N(0, I)$ in the dtype of `spectrum`.

    **Arguments:**

    - `spectrum`: the eigenvalues $h$, shape `(dim,)`. Negative ones are allowed and make $x^*$ a saddle point.
    - `minimizer`: $x^*$, shape `(dim,)`. Default `None`: the origin.
    - `rotation`: the orthogonal matrix $U$, shape `(dim, dim)`, its columns the eigenvectors. Default `None`: the
      identity, which is stored as `None` and costs nothing. Orthogonality is not checked.

    **Raises** `ValueError` for other shapes and for NaN or infinite values.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> problem = problems.Quadratic(jnp.array([1.0, 2.0]))
    >>> (loss,) = problem.losses((jnp.array([3.0, 4.0]),), None)
    >>> float(loss)
    20.5

    ```
    """

    spectrum: Float[Array, " dim"]
    minimizer: Float[Array, " dim"]
    rotation: Float[Array, "dim dim"] | None

    def __init__(self, spectrum: ArrayLike, minimizer: ArrayLike | None = None, rotation: ArrayLike | None = None):
        spectrum = as_float_array(spectrum)
        if spectrum.ndim != 1 or spectrum.size == 0:
            raise ValueError(f"`spectrum` must have shape (dim,) with at least one eigenvalue, got {spectrum.shape}.")
        minimizer = jnp.zeros_like(spectrum) if minimizer is None else as_float_array(minimizer)
        if minimizer.shape != spectrum.shape:
            raise ValueError(f"`minimizer` must have the shape of `spectrum`, {spectrum.shape}, got {minimizer.shape}.")
        rotation = None if rotation is None else as_float_array(rotation)
        if rotation is not None and rotation.shape != (spectrum.size, spectrum.size):
            raise ValueError(f"`rotation` must have shape {(spectrum.size, spectrum.size)}, got {rotation.shape}.")
        for name, value in {"spectrum": spectrum, "minimizer": minimizer, "rotation": rotation}.items():
            if value is not None:
                check_finite(value, name)
        self.spectrum, self.minimizer, self.rotation = spectrum, minimizer, rotation

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " dim"]]:
        return (jax.random.normal(key, self.spectrum.shape, self.spectrum.dtype),)

    def losses(self, players: tuple[Float[Array, " dim"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        (x,) = players
        y = x - self.minimizer.astype(x.dtype)
        if self.rotation is not None:
            y = y @ self.rotation.astype(x.dtype)  # coordinates in the eigenbasis, U^T (x - x*)
        return (jnp.sum(self.spectrum.astype(x.dtype) * y**2) / 2,)

    @property
    def minimum(self) -> Float[Array, ""]:
        """The loss at `minimizer`: zero (the minimum if no eigenvalue is negative)."""
        return jnp.zeros((), self.spectrum.dtype)

    @property
    def hessian(self) -> Float[Array, "dim dim"]:
        """$H$ as a matrix."""
        if self.rotation is None:
            return jnp.diag(self.spectrum)
        return (self.rotation * self.spectrum[None, :]) @ self.rotation.T


def random_quadratic(
    key: PRNGKeyArray,
    spectrum: ArrayLike | None = None,
    *,
    dim: int | None = None,
    condition_number: ArrayLike | None = None,
) -> Quadratic:
    r"""A `Quadratic` with random eigenvectors $U$ (Haar-distributed) and minimizer $x^* \sim N(0, I)$.

    `jax.vmap(lambda key: random_quadratic(key, spectrum))(keys)` is a batch of problems.

    **Arguments:**

    - `key`: a PRNG key.
    - `spectrum`: the eigenvalues, shape `(dim,)`. Or instead of it:
    - `dim`, `condition_number`: eigenvalues spaced evenly on a logarithmic scale from $1/\kappa$ to 1, so that the
      smoothness constant is 1 and step sizes mean the same for every $\kappa \ge 1$.

    **Raises** `ValueError` unless exactly one of the two ways is chosen.

    **Source:** F. Mezzadri, *How to generate random matrices from the classical compact groups*, Notices of the AMS 54
    (2007): the $Q$ of a Gaussian matrix is Haar-distributed if the diagonal of $R$ is made positive.
    """
    if (spectrum is None) == (dim is None and condition_number is None) or (dim is None) != (condition_number is None):
        raise ValueError(
            "Give either `spectrum` or both of `dim` and `condition_number`, got "
            f"spectrum={spectrum}, dim={dim}, condition_number={condition_number}."
        )
    spectrum = _log_spaced(dim, condition_number) if spectrum is None else as_float_array(spectrum)
    if spectrum.ndim != 1:
        raise ValueError(f"`spectrum` must have shape (dim,), got {spectrum.shape}.")
    rotation_key, minimizer_key = jax.random.split(key)
    size, dtype = spectrum.shape[0], spectrum.dtype
    q, r = jnp.linalg.qr(jax.random.normal(rotation_key, (size, size), dtype))
    rotation = q * jnp.sign(jnp.diagonal(r))[None, :]
    return Quadratic(spectrum, jax.random.normal(minimizer_key, (size,), dtype), rotation)


def _log_spaced(dim: int | None, condition_number: ArrayLike | None) -> Float[Array, " dim"]:
    assert condition_number is not None  # the caller has made sure
    dim, condition_number = count(dim, "dim"), as_float_array(condition_number)
    if condition_number.ndim != 0 or (is_concrete(condition_number) and not condition_number >= 1):
        raise ValueError(f"`condition_number` must be a number of at least 1, got {condition_number}.")
    return condition_number ** -jnp.linspace(1, 0, dim, dtype=condition_number.dtype)
