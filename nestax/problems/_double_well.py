"""The double well: the smallest minimization problem with a saddle between two minima."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import AbstractDeterministicProblem
from .._tree import default_float


class DoubleWell(AbstractDeterministicProblem):
    r"""$f(x, y) = (x^2 - 1)^2 / 4 + y^2 / 2$: minima at $(\pm 1, 0)$, a saddle at the origin, the separatrix $x = 0$.

    The Hessian at the saddle is $\operatorname{diag}(-1, 1)$. Players are `(w,)` with $w = (x, y)$, drawn from
    $N(0, I)$.
    """

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, "2"]]:
        return (jax.random.normal(key, (2,), default_float()),)

    def losses(self, players: tuple[Float[Array, "2"]], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        x, y = players[0]
        return ((x**2 - 1) ** 2 / 4 + y**2 / 2,)

    @property
    def saddle(self) -> Float[Array, "2"]:
        """Where the saddle is: the origin."""
        return jnp.zeros(2)
