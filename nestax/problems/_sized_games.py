"""Games of many sizes in one shape, so that they can be batched."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._checks import count, is_concrete
from .._tree import as_float_array
from ._quadratic_games import QuadraticGame


def random_sized_quadratic_game(
    key: PRNGKeyArray, *, max_size: int = 20, max_condition: ArrayLike = 100.0
) -> QuadraticGame:
    """A strongly convex-concave game of a random size, in the shape of the largest one.

    As `QuadraticGame.random`, with dimensions of both players uniform between 2 and `max_size`, and a condition number
    between 1 and `max_condition`, uniform in the logarithm. Coordinates that a game does not use have gradient zero and
    start at zero distance, so that games of all sizes make one batch, and one compilation.

    **Arguments:**

    - `max_size`: coordinates per player, at least 2. Default 20.
    - `max_condition`: at least 1. Default 100.

    **Raises** `ValueError` for values below these.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> games = jax.vmap(nx.problems.random_sized_quadratic_game)(jax.random.split(jax.random.key(0), 3))
    >>> games.own.shape, [int(jnp.linalg.matrix_rank(own)) for own in games.own]
    ((3, 20, 20), [12, 3, 12])

    ```
    """
    size, max_condition = count(max_size, "max_size", at_least=2), as_float_array(max_condition)
    if is_concrete(max_condition) and not 1 <= max_condition < np.inf:
        raise ValueError(f"`max_condition` must be a finite number of at least 1, got {max_condition}.")
    keys = jax.random.split(key, 10)
    rows, columns = jax.random.randint(keys[0], (2,), 2, size + 1)
    condition = max_condition ** jax.random.uniform(keys[1])
    live_x, live_y = jnp.arange(size) < rows, jnp.arange(size) < columns
    first, left = _orthogonal(keys[2], live_x), _orthogonal(keys[3], live_x)
    second, right = _orthogonal(keys[4], live_y), _orthogonal(keys[5], live_y)
    own = (first * _spread(keys[6], size, rows, condition)[None]) @ first.T
    other = (second * _spread(keys[7], size, columns, condition)[None]) @ second.T
    matrix = (left * _spread(keys[8], size, jnp.minimum(rows, columns), condition)[None]) @ right.T
    draw = jax.random.uniform(keys[9], (2, size), minval=-0.5, maxval=0.5)
    x, y = jnp.where(jnp.stack([live_x, live_y]), draw, 0.0)
    return QuadraticGame(own, matrix, other, (-(own @ x + matrix @ y), matrix.T @ x - other @ y))


def random_sized_matrix_game(key: PRNGKeyArray, *, max_size: int = 20) -> QuadraticGame:
    """A square matrix game of a random size up to `max_size` (default 20), in the shape of the largest one.

    Half of the entries are zero, the others uniform in [-1, 1], as in `BilinearGame.random`; it is returned as a
    `QuadraticGame`, so that both kinds make one batch. Coordinates that a game does not use have gradient zero.

    **Raises** `ValueError` for a `max_size` below 2.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> nx.problems.random_sized_matrix_game(jax.random.key(0), max_size=5).coupling.shape
    (5, 5)

    ```
    """
    size = count(max_size, "max_size", at_least=2)
    size_key, value_key, mask_key = jax.random.split(key, 3)
    live = jnp.arange(size) < jax.random.randint(size_key, (), 2, size + 1)
    matrix = jax.random.uniform(value_key, (size, size), minval=-1.0, maxval=1.0)
    matrix = jnp.where(jax.random.bernoulli(mask_key, 0.5, matrix.shape), matrix, 0.0)
    zeros = jnp.zeros_like(matrix)
    return QuadraticGame(zeros, jnp.where(live[:, None] & live[None], matrix, 0.0), zeros)


def _orthogonal(key: PRNGKeyArray, live: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """A uniform orthogonal matrix on the live coordinates, zero elsewhere."""
    both = live[:, None] & live[None]
    draw = jnp.where(both, jax.random.normal(key, both.shape), jnp.eye(live.size))
    q, r = jnp.linalg.qr(draw)
    return jnp.where(both, q * jnp.sign(jnp.diagonal(r))[None], 0.0)


def _spread(key: PRNGKeyArray, size: int, num: Int[Array, ""], condition: Float[Array, ""]) -> Float[Array, " n"]:
    """`num` numbers between 1 / condition and 1, uniform in the logarithm, both ends among them; then zeros."""
    index = jnp.arange(size)
    powers = jax.random.uniform(key, (size,)).at[0].set(0.0)
    powers = jnp.where(index == num - 1, jnp.where(num > 1, 1.0, 0.0), powers)
    return jnp.where(index < num, condition**-powers, 0.0)
