"""Batches of independent small problems as one problem: the optimizees of M-L2O (Yang et al., 2023)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_finite, count, nonnegative, positive
from .._problem import AbstractDeterministicProblem
from .._tree import as_float_array, default_float


def _check_data(matrix: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    matrix, target = as_float_array(matrix), as_float_array(target)
    if matrix.ndim != 3 or 0 in matrix.shape:
        raise ValueError(f"`matrix` must have shape (instances, rows, dim), got {matrix.shape}.")
    if target.shape != matrix.shape[:2]:
        raise ValueError(
            f"`target` must have shape (instances, rows), {matrix.shape[:2]} like `matrix`, got {target.shape}."
        )
    check_finite(matrix, "matrix")
    check_finite(target, "target")
    return matrix, target


def _residual(
    matrix: Float[Array, "instances rows dim"], target: Float[Array, "instances rows"], x: Float[Array, "instances dim"]
) -> Float[Array, "instances rows"]:
    # A sum of products: one fused pass, where batched products of small matrices are slow on a CPU.
    return jnp.sum(matrix.astype(x.dtype) * x[:, None, :], axis=2) - target.astype(x.dtype)


class LassoBatch(AbstractDeterministicProblem):
    r"""$f(X) = \frac1N \sum_{i=1}^{N} \left[ \tfrac12 \lVert A_i x_i - b_i \rVert^2 + \lambda \lVert x_i \rVert_1
    \right]$: $N$ independent LASSO problems at once.

    Players are `(x,)` with `x` of shape `(instances, dim)`; `init` draws it from $N(0, 0.01^2)$. With `l1=0` these are
    least squares, the quadratic problems of M-L2O. See `normal_lasso` and `uniform_lasso` for distributions.

    **Arguments:**

    - `matrix`: $A$, shape `(instances, rows, dim)`. `target`: $b$, shape `(instances, rows)`.
    - `l1`: $\lambda \ge 0$. Default 0.005.
    - `init_scale`: standard deviation of the initial point. Default 0.01.

    **Raises** `ValueError` for other shapes, values that are not finite, and a negative `l1` or `init_scale`.

    **Source:** Yang et al., "M-L2O", ICLR 2023, section 5, with the sizes of the released code.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> problem = problems.LassoBatch(jnp.ones((2, 1, 3)), jnp.zeros((2, 1)), l1=0.0)
    >>> (loss,) = problem.losses((jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),), None)
    >>> float(loss)  # (2 ** 2 / 2 + 0) / 2
    1.0

    ```
    """

    matrix: Float[Array, "instances rows dim"]
    target: Float[Array, "instances rows"]
    l1: Float[Array, ""]
    init_scale: Float[Array, ""]

    def __init__(
        self,
        matrix: ArrayLike,
        target: ArrayLike,
        l1: float | Float[Array, ""] = 0.005,
        init_scale: float | Float[Array, ""] = 0.01,
    ):
        self.matrix, self.target = _check_data(matrix, target)
        self.l1, self.init_scale = nonnegative(l1, "l1"), nonnegative(init_scale, "init_scale")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "instances dim"]]:
        num, _, dim = self.matrix.shape
        dtype = self.matrix.dtype
        return (self.init_scale.astype(dtype) * jax.random.normal(key, (num, dim), dtype),)

    def losses(self, players: tuple[Float[Array, "instances dim"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        (x,) = players
        fit = jnp.sum(_residual(self.matrix, self.target, x) ** 2) / 2
        return ((fit + self.l1.astype(x.dtype) * jnp.sum(jnp.abs(x))) / x.shape[0],)


def normal_lasso(
    key: PRNGKeyArray,
    sigma: float | Float[Array, ""],
    *,
    num_instances: int = 128,
    rows: int = 10,
    dim: int = 10,
    l1: float | Float[Array, ""] = 0.005,
) -> LassoBatch:
    r"""A `LassoBatch` with the entries of $A$ from $N(0, \sigma^2)$ and those of $b$ uniform on $[-1, 1]$.

    **Arguments:** `key`. `sigma`: $\sigma > 0$; 10 to 200 in the paper. `num_instances`, `rows`, `dim`: sizes, by
    default those of the released code. `l1`: $\lambda$; 0 for its quadratic problems.

    **Raises** `ValueError` for a `sigma` that is not positive, and for sizes below 1.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> family = nx.FromSampler(nx.problems.normal_lasso, sigma=100.0)
    >>> family(jax.random.key(0)).matrix.shape
    (128, 10, 10)

    ```
    """
    shape = _sizes(num_instances, rows, dim)
    matrix_key, target_key = jax.random.split(key)
    sigma = positive(sigma, "sigma")
    matrix = sigma.astype(default_float()) * jax.random.normal(matrix_key, shape, default_float())
    return LassoBatch(matrix, _target(target_key, shape), l1)


def uniform_lasso(
    key: PRNGKeyArray,
    bounds: Sequence[float] = (1.0, 0.5, 0.1),
    *,
    num_instances: int = 128,
    rows: int = 10,
    dim: int = 10,
    l1: float | Float[Array, ""] = 0.005,
) -> LassoBatch:
    r"""A `LassoBatch` from a mixture of uniform distributions: on which M-L2O is meta-trained.

    Equal shares of the instances, one after another, have the entries of $A$ uniform on $[0, u]$ for each $u$ of
    `bounds`; those of $b$ are uniform on $[-1, 1]$.

    **Arguments:** `key`. `bounds`: default (1, 0.5, 0.1), as in the released code. The others as for `normal_lasso`.

    **Raises** `ValueError` for bounds that are not positive, or more of them than instances, and for sizes below 1.
    """
    shape = _sizes(num_instances, rows, dim)
    found = [positive(bound, "bounds").astype(default_float()) for bound in bounds]
    if not 0 < len(found) <= shape[0]:
        raise ValueError(f"`bounds` must hold 1 to `num_instances` ({shape[0]}) numbers, got {len(found)}.")
    matrix_key, target_key = jax.random.split(key)
    scale = jnp.stack(found)[np.arange(shape[0]) * len(found) // shape[0]]
    matrix = scale[:, None, None] * jax.random.uniform(matrix_key, shape, default_float())
    return LassoBatch(matrix, _target(target_key, shape), l1)


def _sizes(num_instances: int, rows: int, dim: int) -> tuple[int, int, int]:
    return count(num_instances, "num_instances"), count(rows, "rows"), count(dim, "dim")


def _target(key: PRNGKeyArray, shape: tuple[int, int, int]) -> Float[Array, "instances rows"]:
    return jax.random.uniform(key, shape[:2], default_float(), -1.0, 1.0)


class RosenbrockBatch(AbstractDeterministicProblem):
    r"""$f(X) = \frac1N \sum_{i=1}^{N} \left[ (1 - x_i)^2 + b (y_i - x_i^2)^2 \right]$: $N$ points in Rosenbrock's
    valley.

    Players are `(p,)` with `p` of shape `(instances, 2)`, the points $(x_i, y_i)$; `init` draws them from $N(0, I)$.
    Batches differ by their initial points alone.

    **Arguments:** `num_instances`: $N$, default 128. `b`: default 100.

    **Source:** Yang et al., "M-L2O", ICLR 2023, eq. 15.
    """

    b: Float[Array, ""]
    num_instances: int = eqx.field(static=True)

    def __init__(self, num_instances: int = 128, b: float | Float[Array, ""] = 100.0):
        self.num_instances, self.b = count(num_instances, "num_instances"), nonnegative(b, "b")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "instances 2"]]:
        return (jax.random.normal(key, (self.num_instances, 2), self.b.dtype),)

    def losses(self, players: tuple[Float[Array, "instances 2"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        x, y = players[0][:, 0], players[0][:, 1]
        return (jnp.mean((1 - x) ** 2 + self.b.astype(x.dtype) * (y - x**2) ** 2),)


class RastriginBatch(AbstractDeterministicProblem):
    r"""$f(X) = \frac1N \sum_{i=1}^{N} \left[ \tfrac12 \lVert A_i x_i - b_i \rVert^2 + \alpha \sum_j \left(1 - c_{ij}
    \cos(2 \pi x_{ij})\right) \right]$: $N$ random Rastrigin problems at once.

    Players are `(x,)` with `x` of shape `(instances, dim)`; `init` draws it from $N(0, I)$.

    **Arguments:** `matrix`, `target`: as for `LassoBatch`. `weights`: $c$, shape `(instances, dim)`. `amplitude`:
    $\alpha$, default 1; the code of M-L2O has 1, 0.5 and 2.

    **Raises** `ValueError` for other shapes, values that are not finite, and a negative `amplitude`.

    **Source:** the benchmark Open-L2O (Chen et al., JMLR 2022), from which the code of M-L2O has it; it is not in the
    paper.
    """

    matrix: Float[Array, "instances rows dim"]
    target: Float[Array, "instances rows"]
    weights: Float[Array, "instances dim"]
    amplitude: Float[Array, ""]

    def __init__(
        self, matrix: ArrayLike, target: ArrayLike, weights: ArrayLike, amplitude: float | Float[Array, ""] = 1.0
    ):
        self.matrix, self.target = _check_data(matrix, target)
        self.weights = as_float_array(weights)
        if self.weights.shape != (expected := (self.matrix.shape[0], self.matrix.shape[2])):
            raise ValueError(f"`weights` must have shape (instances, dim), {expected}, got {self.weights.shape}.")
        check_finite(self.weights, "weights")
        self.amplitude = nonnegative(amplitude, "amplitude")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "instances dim"]]:
        return (jax.random.normal(key, self.weights.shape, self.matrix.dtype),)

    def losses(self, players: tuple[Float[Array, "instances dim"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        (x,) = players
        fit = jnp.sum(_residual(self.matrix, self.target, x) ** 2) / 2
        waves = jnp.sum(1 - self.weights.astype(x.dtype) * jnp.cos(2 * jnp.pi * x))
        return ((fit + self.amplitude.astype(x.dtype) * waves) / x.shape[0],)


def normal_rastrigin(
    key: PRNGKeyArray,
    amplitude: float | Float[Array, ""] = 1.0,
    *,
    num_instances: int = 128,
    rows: int = 10,
    dim: int = 10,
) -> RastriginBatch:
    """A `RastriginBatch` with all entries of matrix, target and weights standard normal.

    **Arguments:** `key`. `amplitude`: default 1. The sizes as for `normal_lasso`.
    """
    shape = _sizes(num_instances, rows, dim)
    keys, dtype = jax.random.split(key, 3), default_float()
    matrix, target = jax.random.normal(keys[0], shape, dtype), jax.random.normal(keys[1], shape[:2], dtype)
    return RastriginBatch(matrix, target, jax.random.normal(keys[2], (shape[0], shape[2]), dtype), amplitude)
