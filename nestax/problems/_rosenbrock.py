"""Rosenbrock's valley."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_finite, count, is_concrete
from .._problem import AbstractDeterministicProblem
from .._tree import as_float_array


class Rosenbrock(AbstractDeterministicProblem):
    r"""$f(x) = \sum_{i=1}^{d-1} \left[ b (x_{i+1} - x_i^2)^2 + (a - x_i)^2 \right]$: a flat, curved valley.

    Players are `(x,)` with `x` of shape `(dim,)`. The minimum 0 is at $(1, \dots, 1)$, or at $(a, a^2)$ for `dim=2`;
    from `dim=4` on there is a second local minimum near $(-1, 1, \dots, 1)$. `init` draws a point around the customary
    start $(-1.2, 1, -1.2, 1, \dots)$, with normal noise of standard deviation 0.1, so that seeds differ.

    **Arguments:**

    - `dim`: $d \ge 2$. Default 2.
    - `a`: default 1. Other values need `dim=2`: in more dimensions the terms then contradict each other and the minimum
      has no closed form.
    - `b`: how steep the walls are, default 100.

    **Raises** `ValueError` for other values.

    **Source:** H. H. Rosenbrock, *An automatic method for finding the greatest or least value of a function*, The
    Computer Journal 3 (1960); the sum over neighbours and its minima: Y.-W. Shang, Y.-H. Qiu, *A note on the extended
    Rosenbrock function*, Evolutionary Computation 14 (2006).
    """

    a: Float[Array, ""]
    b: Float[Array, ""]
    dim: int = eqx.field(static=True)

    def __init__(self, dim: int = 2, a: ArrayLike = 1.0, b: ArrayLike = 100.0):
        self.dim = count(dim, "dim", at_least=2)
        self.a, self.b = as_float_array(a), as_float_array(b)
        if self.a.shape != () or self.b.shape != ():
            raise ValueError(f"`a` and `b` must be scalars, got shapes {self.a.shape} and {self.b.shape}.")
        check_finite(self.a, "a")
        check_finite(self.b, "b")
        if dim > 2 and is_concrete(self.a) and self.a != 1:
            raise ValueError(f"`a` must be 1 unless `dim` is 2, got a={self.a} and dim={dim}.")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " dim"]]:
        dtype = self.a.dtype
        start = jnp.where(jnp.arange(self.dim) % 2 == 0, jnp.asarray(-1.2, dtype), jnp.asarray(1.0, dtype))
        return (start + 0.1 * jax.random.normal(key, (self.dim,), dtype),)

    def losses(self, players: tuple[Float[Array, " dim"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        (x,) = players
        a, b = self.a.astype(x.dtype), self.b.astype(x.dtype)
        return (jnp.sum(b * (x[1:] - x[:-1] ** 2) ** 2 + (a - x[:-1]) ** 2),)

    @property
    def minimizer(self) -> Float[Array, " dim"]:
        """Where the minimum is."""
        return jnp.stack([self.a, self.a**2]) if self.dim == 2 else jnp.ones(self.dim, self.a.dtype)

    @property
    def minimum(self) -> Float[Array, ""]:
        """The loss there: zero."""
        return jnp.zeros((), self.a.dtype)
