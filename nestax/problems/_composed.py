"""Problems made of problems: a mixture of two, and the restriction of one to a plane."""

import jax
import jax.flatten_util
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import check_arrays, fraction
from .._problem import AbstractProblem, Players, Sample
from .._tree import check_same_structure
from ._iterated_games import MatchingPennies, SmallPrisonersDilemma


class MixedGame(AbstractProblem):
    r"""$\tau$ times the losses of one problem plus $1 - \tau$ times those of another, player by player.

    Both have the same players. `init` is that of the first; a sample is a pair, one of each.

    **Arguments:** `first`, `second`: the problems. `weight`: $\tau \in [0, 1]$, of the first.

    **Raises** `ValueError` for a weight outside [0, 1], or problems whose players differ.

    **Source:** J. Lorraine et al., *Lyapunov exponents for diversity in differentiable games*, AAMAS 2022, appendix.
    """

    first: AbstractProblem
    second: AbstractProblem
    weight: Float[Array, ""]

    def __init__(self, first: AbstractProblem, second: AbstractProblem, weight: ArrayLike):
        self.first, self.second, self.weight = first, second, fraction(weight, "weight")

    def init(self, key: PRNGKeyArray) -> Players:
        players = self.first.init(key)
        check_same_structure(jax.eval_shape(self.second.init, key), players, "second.init(key)")
        return players

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        first, second = jax.random.split(key)
        return self.first.samples(first, num), self.second.samples(second, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        first, second = (None, None) if sample is None else sample
        pairs = zip(self.first.losses(players, first), self.second.losses(players, second), strict=True)
        return tuple(self.weight.astype(a.dtype) * a + (1 - self.weight.astype(b.dtype)) * b for a, b in pairs)


def mixed_dilemma(weight: ArrayLike = 0.25, low: ArrayLike = 0.01) -> MixedGame:
    r"""Between the small prisoner's dilemma and matching pennies: a game with complex eigenvalues and several modes.

    **Arguments:** `weight`: of the dilemma. Default 0.25: LOLA ($\alpha = 1$, $\eta = 5$) then has two attractors,
    cooperation and the point in the middle, while gradient descent finds only cooperation. The source does not say.
    `low`: see `SmallPrisonersDilemma`.
    """
    return MixedGame(SmallPrisonersDilemma(low), MatchingPennies(), weight)


class Subspace(AbstractProblem):
    r"""A problem restricted to a subspace: every player moves along directions of its own, $\theta_i = b_i + V_i x_i$.

    Players are vectors $x_i$ of length `dim`, at first drawn from $N(0, 1)$; with `dim` 1 and two players the game is a
    plane, which can be drawn.

    **Arguments:**

    - `problem`: any problem.
    - `offset`: $b$, players of it.
    - `directions`: $V$, like `offset` with one further leading axis of length `dim`.

    **Raises** `ValueError` if these do not fit.
    """

    problem: AbstractProblem
    offset: Players
    directions: PyTree[Array]

    def __check_init__(self):
        check_arrays(self.directions, "directions")
        got = [jnp.shape(x) for x in jax.tree.leaves(self.directions)]
        expected = [(*got[0][:1], *x.shape) for x in jax.tree.leaves(self.offset)] if got else None
        if expected != got:
            raise ValueError(f"`directions` must be `offset` with a leading axis: got {got}, expected {expected}.")

    @property
    def dim(self) -> int:
        """The number of directions per player."""
        return jax.tree.leaves(self.directions)[0].shape[0]

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " dim"], ...]:
        dtypes = [jax.tree.leaves(own)[0].dtype for own in self.offset]
        keys = jax.random.split(key, len(self.offset))
        return tuple(jax.random.normal(k, (self.dim,), dtype) for k, dtype in zip(keys, dtypes))

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def embed(self, players: tuple[Float[Array, " dim"], ...]) -> Players:
        """The players of the whole problem."""

        def move(own, offset, directions):
            return jax.tree.map(lambda b, v: b + jnp.tensordot(own.astype(v.dtype), v, axes=1), offset, directions)

        return tuple(move(*parts) for parts in zip(players, self.offset, self.directions))

    def losses(self, players: tuple[Float[Array, " dim"], ...], sample: Sample) -> tuple[Float[Array, ""], ...]:
        return self.problem.losses(self.embed(players), sample)


def random_subspace(problem: AbstractProblem, key: PRNGKeyArray, dim: int = 1) -> Subspace:
    """A `Subspace` through a random initial point: directions with entries drawn from U[0, 1], of Euclidean length 1.

    **Source:** J. Lorraine et al., AAMAS 2022, appendix: all entries are positive there, too.
    """
    init_key, *keys = jax.random.split(key, 1 + len(jax.eval_shape(problem.init, key)))
    offset = problem.init(init_key)

    def draw(own, key):
        flat, unravel = jax.flatten_util.ravel_pytree(own)
        vectors = jax.random.uniform(key, (dim, flat.size), flat.dtype)
        return jax.vmap(unravel)(vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True))

    return Subspace(problem, offset, tuple(draw(own, k) for own, k in zip(offset, keys)))
