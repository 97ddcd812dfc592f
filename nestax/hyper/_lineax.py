"""The Neumann series as a solver of lineax."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, PyTree

from .._checks import finite, named, positive
from ._curvature import Operator
from ._inverse import Neumann, vector_dtype


class NeumannSolver(lineax.AbstractLinearSolver[lineax.AbstractLinearOperator]):
    r"""`Neumann` for `lineax.linear_solve`: $x = \alpha \sum_{j=0}^{n-1} (I - \alpha A)^j b$ for any square operator,
    symmetric or not. Converges where every eigenvalue of $I - \alpha A$ is inside the unit circle.

    **Arguments:** `num_terms`, `alpha`, `growth`: as in `Neumann`, but `alpha` is a number.

    The result is `singular` where the series was cut off because it grew. Its derivative is that of the exact solution
    with every inverse replaced by the truncated series, which is how lineax differentiates.

    **Example**

    ```python
    >>> import jax.numpy as jnp, lineax
    >>> from nestax import hyper
    >>> operator = lineax.MatrixLinearOperator(jnp.array([[2.0, 1.0], [0.0, 1.0]]))
    >>> solution = lineax.linear_solve(operator, jnp.array([3.0, 1.0]), hyper.NeumannSolver(100, 0.5))
    >>> [round(float(x), 4) for x in solution.value]
    [1.0, 1.0]

    ```
    """

    num_terms: int = eqx.field(static=True)
    alpha: Float[Array, ""] = eqx.field(converter=named(positive, "alpha"))
    growth: Float[Array, ""] = eqx.field(converter=named(finite, "growth"), default=10.0)

    def init(self, operator: lineax.AbstractLinearOperator, options: dict[str, Any]) -> lineax.AbstractLinearOperator:
        del options
        if operator.in_structure() != operator.out_structure():
            raise ValueError("`NeumannSolver` needs a square operator, with the same structure on both sides.")
        return lineax.linearise(operator)

    def compute(
        self, state: lineax.AbstractLinearOperator, vector: PyTree, options: dict[str, Any]
    ) -> tuple[PyTree, lineax.RESULTS, dict[str, Any]]:
        del options
        operator = Operator(state.mv, jnp.zeros((), vector_dtype(vector)))
        x, info = Neumann(self.num_terms, self.alpha, self.growth).solve(operator, vector, None)
        result = lineax.RESULTS.where(info.diverged, lineax.RESULTS.singular, lineax.RESULTS.successful)
        return x, result, {"num_steps": info.num_products, "max_steps": self.num_terms - 1}

    def transpose(
        self, state: lineax.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lineax.AbstractLinearOperator, dict[str, Any]]:
        return state.transpose(), options

    def conj(
        self, state: lineax.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lineax.AbstractLinearOperator, dict[str, Any]]:
        return lineax.conj(state), options

    def assume_full_rank(self) -> bool:
        return True
