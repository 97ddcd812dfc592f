"""What is optimized: a problem of one or more players, its joint gradient, and products with its game Jacobian.

Ordinary minimization is a problem with one player. A minimax problem has two, with losses `(f, -f)`. A nested (bilevel)
problem has two as well: the hyperparameters first, the weights second. Optimizers, guards, hypergradients and spectra
see only this interface.
"""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

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

    @abc.abstractmethod
    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        """The loss of every player at `players`, on one `sample`."""


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


def check_players(players: Players) -> Players:
    """Raises `ValueError` unless `players` is a non-empty tuple of pytrees of floating-point arrays."""
    if not isinstance(players, tuple) or len(players) == 0:
        raise ValueError(
            f"`players` must be a non-empty tuple with one pytree per player, got {type(players).__name__}. "
            "For ordinary minimization of `params` pass `(params,)`."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(players):
        if not eqx.is_inexact_array(leaf) or jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            got = f"an array of dtype {leaf.dtype}" if eqx.is_array(leaf) else f"a {type(leaf).__name__}"
            raise ValueError(
                f"`players{jax.tree_util.keystr(path)}` must be a real floating-point array, got {got}. "
                "Convert it with `jnp.asarray(x, float)`, or keep it in the problem if it is not optimized."
            )
    if not jax.tree.leaves(players):
        raise ValueError("`players` holds no arrays, so there is nothing to optimize.")
    return players


def common_dtype(tree: PyTree, *more: Any) -> Any:
    """The dtype of all array leaves of `tree` (and of the dtypes in `more`) together, promoted as NumPy does."""
    with jax.numpy_dtype_promotion("standard"):  # explicit here, so it must not fail where promotion is strict
        return functools.reduce(jnp.promote_types, [*more, *(x.dtype for x in jax.tree.leaves(tree))])


def check_same_structure(got: PyTree, expected: PyTree, name: str) -> None:
    """Raises `ValueError` unless both pytrees have the same structure, shapes and dtypes."""
    structure, wanted = jax.tree.structure(got), jax.tree.structure(expected)
    if structure != wanted:
        raise ValueError(f"`{name}` has the wrong pytree structure: got {structure}, expected {wanted}.")
    for (path, leaf), want in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
        if jnp.shape(leaf) != jnp.shape(want) or jnp.result_type(leaf) != jnp.result_type(want):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` has shape {jnp.shape(leaf)} and dtype {jnp.result_type(leaf)}, "
                f"expected shape {jnp.shape(want)} and dtype {jnp.result_type(want)}."
            )


def evaluate_losses(problem: AbstractProblem, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
    """`problem.losses`, checked: one real floating-point scalar per player, else `ValueError` at trace time."""
    losses = problem.losses(players, sample)
    name = type(problem).__name__
    if not isinstance(losses, tuple) or len(losses) != len(players):
        got = f"a tuple of {len(losses)}" if isinstance(losses, tuple) else f"a {type(losses).__name__}"
        raise ValueError(
            f"`{name}.losses` must return a tuple with one loss per player ({len(players)} here), got {got}."
        )
    for i, loss in enumerate(losses):
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(
                f"`{name}.losses` must return real floating-point scalars, but loss {i} has shape {jnp.shape(loss)} "
                f"and dtype {jnp.result_type(loss)}. Reduce it, for example with `jnp.mean`."
            )
    return losses


def joint_gradient(
    problem: AbstractProblem, players: Players, sample: Sample
) -> tuple[Float[Array, "players"], Players]:
    r"""The losses and the joint gradient $(\partial_1 L_1, \dots, \partial_n L_n)$: every player's own gradient.

    One forward pass and one reverse pass per player. For a single player this is the ordinary gradient.

    **Returns** the losses, stacked to shape `(players,)`, and a tuple of gradients with the structure of `players`.
    """
    losses, pullback = jax.vjp(lambda p: evaluate_losses(problem, p, sample), players)
    field = []
    for i in range(len(players)):
        cotangent = tuple(jnp.ones_like(loss) if i == j else jnp.zeros_like(loss) for j, loss in enumerate(losses))
        field.append(pullback(cotangent)[0][i])
    return jnp.stack(losses), tuple(field)


def game_jvp(problem: AbstractProblem, players: Players, sample: Sample, tangent: Players) -> Players:
    r"""The product $J v$ of the game Jacobian $J = D(\partial_1 L_1, \dots, \partial_n L_n)$ with a vector.

    For one player this is a Hessian-vector product. Forward over reverse: about two gradient evaluations.
    """
    check_same_structure(tangent, players, "tangent")
    return jax.jvp(lambda p: joint_gradient(problem, p, sample)[1], (players,), (tangent,))[1]


def game_vjp(problem: AbstractProblem, players: Players, sample: Sample, cotangent: Players) -> Players:
    r"""The product $J^\top v$ of the transposed game Jacobian with a vector.

    For one player it equals `game_jvp`; for a game it does not, since the game Jacobian is not symmetric.
    """
    check_same_structure(cotangent, players, "cotangent")
    _, pullback = jax.vjp(lambda p: joint_gradient(problem, p, sample)[1], players)
    return pullback(cotangent)[0]
