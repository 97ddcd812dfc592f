"""Rastrigin's function: a bowl full of local minima."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count, is_concrete
from .._problem import AbstractDeterministicProblem
from .._tree import as_float_array


class Rastrigin(AbstractDeterministicProblem):
    r"""$f(x) = A d + \sum_{i=1}^{d} \left[ x_i^2 - A \cos(2 \pi x_i) \right]$.

    Players are `(x,)` with `x` of shape `(dim,)`. The minimum 0 is at the origin; near every point whose coordinates
    are integers smaller than about $\pi A$ lies a local minimum. `init` draws $x$ uniformly from the customary box
    $[-5.12, 5.12]^d$.

    **Arguments:**

    - `dim`: $d \ge 1$.
    - `amplitude`: $A \ge 0$, default 10. With 0 it is a plain bowl.

    **Raises** `ValueError` for other values.

    **Source:** L. A. Rastrigin, *Systems of extremal control* (1974), for two dimensions; H. Mühlenbein, M. Schomisch,
    J. Born, *The parallel genetic algorithm as function optimizer*, Parallel Computing 17 (1991), for $d$.
    """

    amplitude: Float[Array, ""]
    dim: int = eqx.field(static=True)

    def __init__(self, dim: int, amplitude: ArrayLike = 10.0):
        self.dim = count(dim, "dim")
        self.amplitude = as_float_array(amplitude)
        if self.amplitude.shape != () or (is_concrete(self.amplitude) and not 0 <= self.amplitude < jnp.inf):
            raise ValueError(f"`amplitude` must be a finite number of at least 0, got {amplitude}.")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " dim"]]:
        return (jax.random.uniform(key, (self.dim,), self.amplitude.dtype, -5.12, 5.12),)

    def losses(self, players: tuple[Float[Array, " dim"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        (x,) = players
        amplitude = self.amplitude.astype(x.dtype)
        # A (1 - cos 2 pi x) = 2 A sin^2(pi x): the same, without cancellation near the minimum
        return (jnp.sum(x**2 + 2 * amplitude * jnp.sin(jnp.pi * x) ** 2),)

    @property
    def minimizer(self) -> Float[Array, " dim"]:
        """Where the minimum is: the origin."""
        return jnp.zeros(self.dim, self.amplitude.dtype)

    @property
    def minimum(self) -> Float[Array, ""]:
        """The loss there: zero."""
        return jnp.zeros((), self.amplitude.dtype)
