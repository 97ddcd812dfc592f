"""A loss guard inside a training loop that is not ours: one update at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._optax import as_gradient_optimizer
from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, apply_updates, as_transformation
from .._rollout import all_finite, select
from .._tree import cast_like, check_same_structure, common_dtype, norm
from ._candidates import Candidate, Pair, begin, both, own_runs, runners, states_after
from ._comparison import judge
from ._rules import AbstractRule


class LoopState(eqx.Module):
    """The state of a loss guard in a training loop.

    The candidate that the loop's own parameters follow has no players here.
    """

    candidates: Pair
    # of the block
    start: PyTree  # parameters at its start
    before: Pair  # states at its start
    multiple: Int[Array, ""]  # pieces that it is to have
    position: Int[Array, ""]  # updates that it has had
    # of the run
    initial: Pair  # the first states, where a policy needs them
    in_step: Int[Array, ""]  # updates since the start of the step, which ends a block
    first: Bool[Array, ""]  # no update was made yet
    accepted: Bool[Array, ""]  # the last decision
    scale: Float[Array, ""]  # the largest norm of a gradient so far


class LoopGuard(eqx.Module):
    """The two functions of the Optax form of a `LossGuard`."""

    optimizers: Pair
    policies: Pair
    rule: AbstractRule

    @property
    def host(self) -> Pair:
        """Whose candidate the loop's parameters follow within a block: one that has no run of its own."""
        fallback = not self.policies.fallback.runs_alone
        return Pair(not fallback and not self.policies.proposal.runs_alone, fallback)

    def init(self, params: PyTree) -> LoopState:
        refuse_masks(params)
        states = both(lambda o: o.init_update(params), self.optimizers)
        alone = both(lambda policy: params if policy.runs_alone else None, self.policies)
        state = LoopState(
            candidates=self._without_host(begin(params, states, self.policies, alone)),
            start=params,
            before=states,
            multiple=jnp.array(1),
            position=jnp.array(0),
            initial=both(lambda policy, state: state if policy.needs_initial else None, self.policies, states),
            in_step=jnp.array(0),
            first=jnp.array(True),
            accepted=jnp.array(False),
            scale=jnp.zeros((), common_dtype(params, jnp.float32)),
        )
        # every leaf a buffer of its own, so that all can be donated
        return jax.tree.map(lambda x: jnp.array(x, copy=True) if eqx.is_array(x) else x, state)

    def update(
        self,
        updates: PyTree,
        state: LoopState,
        params: PyTree | None = None,
        *,
        value_fn: Callable | None = None,
        validation_fn: Callable | None = None,
        **extra: Any,
    ) -> tuple[PyTree, LoopState]:
        if params is None or value_fn is None:
            raise ValueError(
                "A guard compares losses, so its `update` needs the parameters and the loss: call "
                "`update(gradients, state, params, value_fn=loss)`, where `loss(params)` is this minibatch's."
            )
        refuse_masks(params)
        check_same_structure(params, state.start, "params")
        functions = {"value_fn": value_fn, "validation_fn": validation_fn}
        fresh = state.position == 0
        scale = state.scale

        def advance(runner, host, policy, candidate):
            nonlocal scale
            if host:
                return _advance(runner, params, candidate, updates, **{**extra, **functions})
            players = candidate.players if policy.runs_alone else select(fresh, params, candidate.players)
            value, gradients = jax.value_and_grad(value_fn)(players)
            comparable = state.first if policy.runs_alone else fresh  # where it is at `params`
            gradients, scale = check_gradients(updates, gradients, comparable, scale)
            return _advance(runner, players, candidate, gradients, value=value, grad=gradients, **functions)

        candidates = both(
            advance,
            runners(self.optimizers, self.policies),
            self.host,
            self.policies,
            state.candidates,
        )
        position, in_step = state.position + 1, state.in_step + 1
        length = self.rule.max_multiple * self.rule.num_steps
        ends = (position == state.multiple * self.rule.num_steps) | (in_step == length)
        start = select(fresh, params, state.start)

        def decide() -> tuple[PyTree, LoopState]:
            verdict, comparison = self._compare(candidates, validation_fn or value_fn, position)
            chosen = select(verdict.accept, candidates.proposal.players, candidates.fallback.players)
            states = states_after(verdict.accept, self.policies, state.before, candidates, state.initial)
            chosen, states = select(verdict.failed, (start, state.before), (chosen, states))
            fresh = begin(chosen, states, self.policies, own_runs(chosen, self.policies, candidates))
            return chosen, LoopState(
                candidates=self._without_host(fresh),
                start=start,
                before=states,
                multiple=self.rule.next_multiple(state.multiple, position // self.rule.num_steps, comparison),
                position=jnp.zeros_like(position),
                initial=state.initial,
                in_step=in_step % length,
                first=jnp.zeros_like(state.first),
                accepted=verdict.accept,
                scale=scale,
            )

        def go_on() -> tuple[PyTree, LoopState]:
            hosted = [c.players for c, host in zip(candidates, self.host) if host]
            return hosted[0] if hosted else params, LoopState(
                candidates=self._without_host(candidates),
                start=start,
                before=state.before,
                multiple=state.multiple,
                position=position,
                initial=state.initial,
                in_step=in_step,
                first=jnp.zeros_like(state.first),
                accepted=state.accepted,
                scale=scale,
            )

        target, state = jax.lax.cond(ends, decide, go_on)
        return jax.tree.map(jnp.subtract, target, params), state

    def _compare(self, candidates: Pair, losses: Callable, num_steps: Int[Array, ""]):
        values = [jnp.atleast_1d(losses(candidate.players)) for candidate in candidates]
        values = jnp.stack(values, axis=1).astype(common_dtype(values, jnp.float32))
        comparison = self.rule.compare(lambda i: values, jnp.array(1), values.dtype)
        finite = jnp.stack([candidate.finite for candidate in candidates])
        return judge(comparison.moments, finite, num_steps, self.rule.margin), comparison

    def _without_host(self, candidates: Pair) -> Pair:
        return both(lambda c, host: Candidate(None, c.state, c.finite) if host else c, candidates, self.host)


def in_a_loop(optimizers: Pair, policies: Pair, rule: AbstractRule) -> optax.GradientTransformationExtraArgs:
    """The transformation behind `LossGuard.as_optax`."""
    guard = LoopGuard(both(_loop_form, optimizers, Pair("proposal", "fallback")), policies, rule)
    return as_transformation(guard.init, guard.update)


def _loop_form(optimizer: AbstractOptimizer, name: str) -> AbstractGradientOptimizer:
    if isinstance(optimizer, AbstractGradientOptimizer):
        return optimizer
    return as_gradient_optimizer(optimizer.as_optax(), name)


def _advance(
    optimizer: AbstractGradientOptimizer, players: PyTree, candidate: Candidate, gradients: PyTree, **extra: Any
) -> Candidate:
    """One update; a candidate that becomes non-finite stays where it was, and stays failed."""
    updates, state = optimizer.update(gradients, candidate.state, players, **extra)
    moved = apply_updates(players, updates)
    finite = candidate.finite & all_finite(moved)
    return select(finite, Candidate(moved, state, finite), Candidate(players, candidate.state, finite))


def check_gradients(
    given: PyTree, own: PyTree, comparable: Bool[Array, ""], scale: Float[Array, ""]
) -> tuple[PyTree, Float[Array, ""]]:
    """`own`, with an error at run time if `given` is another gradient where they are at the same parameters.

    Differences are relative to the largest gradient so far, since near a minimum all is rounding.

    **Returns** the gradients, and the largest norm so far.
    """
    scale = jnp.maximum(scale, jnp.where(comparable, norm(own), 0).astype(scale.dtype))
    tolerance = max(4 * float(jnp.finfo(x.dtype).eps) ** 0.5 for x in jax.tree.leaves((own, given)))
    differ = norm(jax.tree.map(jnp.subtract, cast_like(given, own), own)) > tolerance * scale
    return eqx.error_if(own, comparable & differ, _TRANSFORMED), scale


_TRANSFORMED = (
    "The gradients that a guard was given are not those of `value_fn`. A guard takes gradients at several points, so "
    "what transforms them (clipping, weight decay, scaling of the loss) must be inside: instead of "
    "`optax.chain(optax.clip(1.0), guard)` guard `optax.chain(optax.clip(1.0), learned.as_optax())`, and put the same "
    "before the fallback. If nothing transforms them, `value_fn` must be the loss of the same minibatch."
)


def refuse_masks(params: PyTree) -> None:
    """Raises `ValueError` inside `optax.masked` and the like, where part of the parameters is hidden."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(
            "A guard compares losses, which need all parameters, so it cannot be inside `optax.masked`, "
            "`optax.multi_transform` or `optax.partition`. Put these inside the guard: around the optimizer that it "
            "guards, and around the fallback."
        )
