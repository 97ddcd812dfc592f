"""Several momentum buffers: aggregated, and linked by a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Inexact, PyTree

from .._checks import is_concrete
from .._optax import Optax
from ._complex import check_inside_unit_circle, check_real_params, complex_dtype, number


def linked_momentum(
    matrix: Inexact[Array, "buffers buffers"],
    gradient_weights: Inexact[Array, " buffers"],
    output_weights: Inexact[Array, " buffers"],
) -> Optax:
    r"""Momentum in $K$ linked buffers.

    $$\mu \leftarrow B^\top \mu - c\, g, \qquad \theta \leftarrow \theta + \Re(a^\top \mu)$$

    The buffers start at zero. The most general linear momentum; momentum is $K = 1$, `aggregated_momentum` is a
    diagonal $B$, and `complex_momentum` with $\beta$ and a real or complex $\alpha$ is

    $$B = \begin{pmatrix} \Re\beta & \Im\beta \\ -\Im\beta & \Re\beta \end{pmatrix}, \qquad c = (1, 0), \qquad
    a = (\Re\alpha, -\Im\alpha).$$

    **Arguments:**

    - `matrix`: $B$; buffer $l$ feeds buffer $k$ with weight $B_{lk}$. Real or complex.
    - `gradient_weights`: $c$, how much of the gradient each buffer receives.
    - `output_weights`: $a$, how much each buffer moves the parameters. The learning rates are here.

    **Raises** `ValueError` for shapes that do not match, a $B$ (where concrete) with an eigenvalue of modulus 1 or
    more, and parameters that are not real floating-point arrays.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> matrix = jnp.array([[0.7, 0.3], [-0.3, 0.7]])
    >>> optimizer = nx.optimizers.linked_momentum(matrix, jnp.array([1.0, 0.0]), jnp.array([0.1, 0.0]))

    ```

    **Source:** Lorraine et al. (AISTATS 2022), the recurrently linked momentum of the appendix. **Deviation:** as
    printed every buffer receives the whole gradient, of which complex momentum is no instance; hence $c$.
    """
    matrix = number(matrix, "matrix")
    gradient_weights = number(gradient_weights, "gradient_weights")
    output_weights = number(output_weights, "output_weights")
    num = output_weights.shape[0] if output_weights.ndim == 1 else 0
    if num == 0 or matrix.shape != (num, num) or gradient_weights.shape != (num,):
        raise ValueError(
            "With K buffers `matrix` has the shape (K, K), `gradient_weights` and `output_weights` have (K,); got "
            f"{matrix.shape}, {gradient_weights.shape} and {output_weights.shape}."
        )
    if is_concrete(matrix):
        check_inside_unit_circle(np.max(np.abs(np.linalg.eigvals(np.asarray(matrix)))), "spectral radius of `matrix`")
    return Optax(_linked_momentum, matrix=matrix, gradient_weights=gradient_weights, output_weights=output_weights)


def _linked_momentum(matrix, gradient_weights, output_weights):
    coefficients = (matrix, gradient_weights, output_weights)
    is_complex = any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in coefficients)

    def init(params: PyTree) -> PyTree:
        check_real_params(params, "linked_momentum")

        def buffers(p):
            dtype = jnp.result_type(p)
            return jnp.zeros((len(matrix), *jnp.shape(p)), complex_dtype(dtype) if is_complex else dtype)

        return jax.tree.map(buffers, params)

    def advance(g: Array, buffers: Array) -> Array:
        linked = _weighted(matrix, buffers)
        return linked - jnp.tensordot(gradient_weights.astype(buffers.dtype), g.astype(buffers.dtype), 0)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        del params
        state = jax.tree.map(advance, updates, state)
        return jax.tree.map(lambda buffers: jnp.real(_weighted(output_weights, buffers)), state), state

    return optax.GradientTransformation(init, update)


def _weighted(weights: Array, buffers: Array) -> Array:
    """Sums over the first axis of both."""
    weights = weights.astype(buffers.dtype)
    return jnp.tensordot(weights, buffers, ((0,), (0,)), precision=jax.lax.Precision.HIGHEST)


def aggregated_momentum(learning_rates: Inexact[Array, " buffers"], momenta: Inexact[Array, " buffers"]) -> Optax:
    r"""$K$ independent momenta, which move the parameters together.

    $$\mu_k \leftarrow \beta_k \mu_k - g, \qquad \theta \leftarrow \theta + \Re \sum_k \alpha_k \mu_k$$

    **Arguments:**

    - `learning_rates`: $\alpha_k$. The source divides one rate by $K$; here it is done by the caller.
    - `momenta`: $\beta_k$, real or complex, $|\beta_k| < 1$.

    **Raises** `ValueError` as `linked_momentum`.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> rates, momenta = jnp.full(3, 0.1 / 3), jnp.array([0.0, 0.9, 0.99])
    >>> optimizer = nx.optimizers.aggregated_momentum(rates, momenta)

    ```

    **Source:** Lucas, Sun, Zemel and Grosse, "Aggregated momentum" (ICLR 2019); with complex coefficients Lorraine et
    al. (AISTATS 2022), appendix.
    """
    momenta = number(momenta, "momenta")
    if momenta.ndim != 1:
        raise ValueError(f"`momenta` must be a vector, one coefficient per buffer, got shape {momenta.shape}.")
    check_inside_unit_circle(momenta, "momenta")
    rates = number(learning_rates, "learning_rates")
    if rates.shape != momenta.shape:
        raise ValueError(f"`learning_rates` must be as many as `momenta`, {momenta.shape}, got shape {rates.shape}.")
    return linked_momentum(jnp.diag(momenta), jnp.ones_like(momenta), rates)
