"""A loss guard inside a training loop that is not ours."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from .._optimizer import apply_updates
from .._rollout import all_finite, select
from .._tree import check_same_structure, common_dtype
from ._candidates import Candidate, Pair
from ._decision import Moments, judge


class BlockState(eqx.Module):
    """Where a block stands. The fallback's players are the loop's own parameters, so they are not kept."""

    position: Int[Array, ""]  # updates made since the start of the block
    start: PyTree  # parameters there
    before: tuple[PyTree, PyTree]  # the states of both there
    learned: Candidate
    fallback_state: PyTree
    fallback_finite: Bool[Array, ""]
    initial: PyTree  # as in `LossGuardState`
    use_learned: Bool[Array, ""]  # the last decision


def block_transformation(pair: Pair, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """The transformation behind `LossGuard.as_optax`."""
    pair.check_gradient_optimizers()
    if "own" in (pair.on_accept, pair.on_reject):
        raise ValueError(
            "In a training loop there is one set of parameters, so no optimizer can have a run of its own: "
            '`on_accept="own"` and `on_reject="own"` have no Optax form. Use `solve`, or another mode.'
        )

    def begin(
        params: PyTree, states: tuple[PyTree, PyTree], initial: PyTree, use_learned: Bool[Array, ""]
    ) -> BlockState:
        learned, fallback = pair.start(params, states)
        return BlockState(jnp.array(0), params, states, learned, fallback.state, fallback.finite, initial, use_learned)

    def init(params: PyTree) -> Any:
        states = (pair.optimizer.init_update(params), pair.fallback.init_update(params))
        initial = states[0] if pair.on_reject == "reset" else None
        return begin(params, states, initial, jnp.array(False))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value_fn: Callable | None = None,
        validation_fn: Callable | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Any]:
        del extra
        if params is None or value_fn is None:
            raise ValueError(
                "A guard compares losses, so its `update` needs the parameters and the loss: call "
                "`update(gradients, state, params, value_fn=loss)`, where `loss(params)` is this minibatch's."
            )
        check_same_structure(params, state.start, "params")
        learned_runner, fallback_runner = pair.runners()
        gradients = jax.grad(value_fn)(state.learned.players)
        learned = _advance(learned_runner, state.learned, gradients)
        fallback = _advance(fallback_runner, Candidate(params, state.fallback_state, state.fallback_finite), updates)

        def decide() -> tuple[PyTree, BlockState]:
            validate = value_fn if validation_fn is None else validation_fn
            losses = jnp.stack([validate(learned.players), validate(fallback.players)])[None]
            losses = losses.astype(common_dtype(losses, jnp.float32))
            verdict = judge(Moments.of(losses), jnp.stack([learned.finite, fallback.finite]), num_steps)
            chosen = select(verdict.use_learned, learned.players, fallback.players)
            states = pair.states(verdict.use_learned, state.before, (learned, fallback), state.initial)
            chosen, states = select(verdict.failed, (state.start, state.before), (chosen, states))
            return chosen, begin(chosen, states, state.initial, verdict.use_learned)

        def go_on() -> tuple[PyTree, BlockState]:
            return fallback.players, BlockState(
                state.position + 1,
                state.start,
                state.before,
                learned,
                fallback.state,
                fallback.finite,
                state.initial,
                state.use_learned,
            )

        target, state = jax.lax.cond(state.position + 1 == num_steps, decide, go_on)
        return jax.tree.map(jnp.subtract, target, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _advance(optimizer: Any, candidate: Candidate, gradients: PyTree) -> Candidate:
    """One update; a candidate that becomes non-finite stays where it was, and stays failed."""
    updates, state = optimizer.update(gradients, candidate.state, candidate.players)
    players = apply_updates(candidate.players, updates)
    finite = candidate.finite & all_finite(players)
    return select(finite, Candidate(players, state, finite), Candidate(candidate.players, candidate.state, finite))
