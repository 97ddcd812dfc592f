"""Problems of one or more players: the interface of what is optimized.

Ordinary minimization is a problem with one player. A minimax problem has two, with losses `(f, -f)`. Optimizers,
guards, hypergradients and spectra see only this interface.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._checks import check_arrays
from ._resolvent import AbstractResolvent

Players = tuple[PyTree, ...]
"""One pytree of floating-point arrays per player."""

Sample = PyTree
"""One draw of a problem's randomness: `None` (deterministic), a PRNG key, or a batch streamed from the host."""


class AbstractProblem(eqx.Module):
    r"""A problem with $n \ge 1$ players, each of whom minimizes its own loss.

    Array leaves are the problem's own parameters (data, spectra, coefficients): `jax.vmap` over them is a batch of
    problems. A problem holds no random state: all randomness enters through `sample`.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> Players:
        """Draws an initial point: one pytree of floating-point arrays per player."""

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        """Draws `num` samples, stacked on a leading axis.

        The default is `num` PRNG keys, which suits every problem that draws its batch on the device. A deterministic
        problem derives from `AbstractDeterministicProblem` instead; one fed by the host returns the batches themselves.
        """
        return jax.random.split(key, num)

    @property
    def max_samples(self) -> int | None:
        """How many samples are drawn at a time at most, for a problem that is fed by the host: the next ones are then
        drawn while these are used. `None` (default): a thousand steps' worth."""
        return None

    @abc.abstractmethod
    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        """The loss of every player at `players`, on one `sample`."""

    def resolvent(self, step_size: ArrayLike) -> AbstractResolvent:
        """The resolvent of the joint gradient in closed form, which few problems have.

        **Raises** `ValueError` for a problem without one, and for a `step_size` that is not positive.
        """
        del step_size
        raise ValueError(
            f"`{type(self).__name__}` has no resolvent in closed form. Where an optimizer or guard asks for it, pass a "
            "general solver: `resolvent=nestax.optimizers.NewtonResolvent()`, or, for step sizes below one over the "
            "Lipschitz constant of the gradient, `resolvent=nestax.optimizers.FixedPointResolvent()`."
        )

    def distances(self, players: Players) -> tuple[Float[Array, ""], ...]:
        """Each player's Euclidean distance to the solutions, which few problems know.

        **Raises** `ValueError` for a problem that does not.
        """
        del players
        raise ValueError(
            f"`{type(self).__name__}` does not know the distance to its solutions: it does not override "
            "`distances(players)`, which returns one number per player. Measure the gradient instead: "
            "`nestax.measures.GradientNorm()`."
        )


class AbstractDeterministicProblem(AbstractProblem):
    """A problem without randomness: its samples are `None`."""

    def samples(self, key: PRNGKeyArray, num: int) -> None:
        del key, num


class AbstractMinimax(AbstractProblem):
    r"""A zero-sum game of two players: $\min_x \max_y f(x, y)$, as the losses $(f, -f)$.

    This is the one place where the sign is turned: a zero-sum problem states its `payoff`, and everything else sees two
    players who both minimize. A deterministic game derives from `AbstractDeterministicProblem` as well.
    """

    @abc.abstractmethod
    def payoff(self, players: Players, sample: Sample) -> Float[Array, ""]:
        """$f(x, y)$ for `players = (x, y)`: what the first player pays to the second."""

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], Float[Array, ""]]:
        payoff = self.payoff(players, sample)
        return payoff, -payoff


def check_players(players: Players, names: tuple[str, ...] | None = None) -> Players:
    """Raises `ValueError` unless `players` is a non-empty tuple of pytrees of floating-point arrays.

    `names`: what a message calls each of them. Default `None`: `players[0]` and so on.
    """
    if not isinstance(players, tuple) or len(players) == 0:
        raise ValueError(
            f"`players` must be a non-empty tuple with one pytree per player, got {type(players).__name__}. "
            "For ordinary minimization of `params` pass `(params,)`."
        )
    for path, leaf in tree_leaves_with_path(players):
        if not eqx.is_inexact_array(leaf) or jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            got = f"an array of dtype {leaf.dtype}" if eqx.is_array(leaf) else f"a {type(leaf).__name__}"
            name = f"players{keystr(path)}" if names is None else f"{names[path[0].idx]}{keystr(path[1:])}"
            raise ValueError(
                f"`{name}` must be a real floating-point array, got {got}. "
                "Convert it with `jnp.asarray(x, float)`, or keep it in the problem if it is not optimized."
            )
    if not jax.tree.leaves(players):
        raise ValueError("`players` holds no arrays, so there is nothing to optimize.")
    return players


def check_sample(problem: AbstractProblem, sample: Sample, name: str = "sample") -> None:
    """Raises `ValueError` if there is no sample of a problem that draws some, or one that is not made of arrays."""
    check_arrays(sample, name)
    if sample is not None or isinstance(problem, AbstractDeterministicProblem):
        return
    if jax.tree.leaves(jax.eval_shape(lambda key: problem.samples(key, 1), jax.random.key(0))):
        raise ValueError(
            f"`{type(problem).__name__}` is a stochastic problem, so the argument `{name}` is missing: one of its "
            f"samples, such as `{name}=jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(0), 1))`."
        )


def check_zero_sum(problem: AbstractProblem, name: str, players: Players | None = None) -> AbstractMinimax:
    """`problem`, or `ValueError` unless it is a zero-sum game of two players; `name` is what asks for one."""
    if not isinstance(problem, AbstractMinimax) or (players is not None and len(players) != 2):
        number = "" if players is None else f" with {len(players)} player(s)"
        raise ValueError(
            f"`{name}` is for zero-sum games of two players, got {type(problem).__name__}{number}. Derive the problem "
            "from `nestax.AbstractMinimax` and state its payoff f: the losses (f, -f) follow. For general games there "
            "are, for example, `Extragradient` and `ConsensusOptimization`."
        )
    return problem
