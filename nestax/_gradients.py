"""Losses of a problem, checked; its joint gradient; products with its game Jacobian."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import check_arrays
from ._problem import AbstractProblem, Players, Sample
from ._tree import check_same_structure


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
) -> tuple[Float[Array, " players"], Players]:
    r"""The losses and the joint gradient $(\partial_1 L_1, \dots, \partial_n L_n)$: every player's own gradient.

    One forward pass and one reverse pass per player. For a single player this is the ordinary gradient.

    **Returns** the losses, stacked to shape `(players,)`, and a tuple of gradients with the structure of `players`.
    """
    check_arrays(sample, "sample")
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
