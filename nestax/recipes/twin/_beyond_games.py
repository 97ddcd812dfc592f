"""Games of many sizes in one shape, so that they can be batched, and the cost of reaching a gradient norm."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ...evaluation import GameRuns
from ...measures import cost_at, first_below
from ...problems import QuadraticGame

SIZE = 20  # coordinates per player, of which a game uses some; the others have gradient zero


def _orthogonal(key: PRNGKeyArray, live: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """A uniform orthogonal matrix on the live coordinates, zero elsewhere."""
    both = live[:, None] & live[None]
    draw = jnp.where(both, jax.random.normal(key, both.shape), jnp.eye(live.size))
    q, r = jnp.linalg.qr(draw)
    return jnp.where(both, q * jnp.sign(jnp.diagonal(r))[None], 0.0)


def _spread(key: PRNGKeyArray, num: Int[Array, ""], condition: Float[Array, ""]) -> Float[Array, " n"]:
    """`num` numbers between 1 / condition and 1, uniform in the logarithm, both ends among them; then zeros."""
    index = jnp.arange(SIZE)
    powers = jax.random.uniform(key, (SIZE,)).at[0].set(0.0)
    powers = jnp.where(index == num - 1, jnp.where(num > 1, 1.0, 0.0), powers)
    return jnp.where(index < num, condition**-powers, 0.0)


def random_quadratic_game(key: PRNGKeyArray):
    """As `QuadraticGame.random`, with random dimensions from 2 on, and a random condition number up to 100."""
    keys = jax.random.split(key, 10)
    rows, columns = jax.random.randint(keys[0], (2,), 2, SIZE + 1)
    condition = 100.0 ** jax.random.uniform(keys[1])
    live_x, live_y = jnp.arange(SIZE) < rows, jnp.arange(SIZE) < columns
    first, left = _orthogonal(keys[2], live_x), _orthogonal(keys[3], live_x)
    second, right = _orthogonal(keys[4], live_y), _orthogonal(keys[5], live_y)
    own = (first * _spread(keys[6], rows, condition)[None]) @ first.T
    other = (second * _spread(keys[7], columns, condition)[None]) @ second.T
    matrix = (left * _spread(keys[8], jnp.minimum(rows, columns), condition)[None]) @ right.T
    draw = jax.random.uniform(keys[9], (2, SIZE), minval=-0.5, maxval=0.5)
    x, y = jnp.where(jnp.stack([live_x, live_y]), draw, 0.0)
    return QuadraticGame(own, matrix, other, (-(own @ x + matrix @ y), matrix.T @ x - other @ y))


def random_matrix_game(key: PRNGKeyArray):
    """A square matrix game of a random size, half of its entries U[-1, 1], as a `QuadraticGame`."""
    size_key, value_key, mask_key = jax.random.split(key, 3)
    live = jnp.arange(SIZE) < jax.random.randint(size_key, (), 2, SIZE + 1)
    matrix = jax.random.uniform(value_key, (SIZE, SIZE), minval=-1.0, maxval=1.0)
    matrix = jnp.where(jax.random.bernoulli(mask_key, 0.5, matrix.shape), matrix, 0.0)
    zeros = jnp.zeros_like(matrix)
    return QuadraticGame(zeros, jnp.where(live[:, None] & live[None], matrix, 0.0), zeros)


def random_game(key: PRNGKeyArray):
    """What is trained on: in one of three cases a matrix game at the seen scale, else a quadratic game."""
    which, quadratic_key, matrix_key = jax.random.split(key, 3)
    bilinear = jax.random.bernoulli(which, 1 / 3)
    pair = random_quadratic_game(quadratic_key), random_matrix_game(matrix_key)
    return jax.tree.map(lambda quadratic, matrix: jnp.where(bilinear, matrix, quadratic), *pair)


def evaluations(runs: GameRuns, tolerance: float) -> Float[np.ndarray, " runs"]:
    """Gradients and resolvents until the relative gradient norm stays below the tolerance; `inf` for never."""
    times = first_below(runs.gradient_norms / runs.gradient_norms[..., :1], tolerance)
    return cost_at(runs.num_gradients + runs.num_resolvents, times).ravel()
