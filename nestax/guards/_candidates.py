"""Two candidates advanced on the same samples, and the states after one of them was taken."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, StepInfo
from .._problem import AbstractProblem, Sample
from .._rollout import RESULTS, all_finite, rollout, select
from .._step import OptimizerStep
from ._policies import NotTaken


class Pair(NamedTuple):
    """What there is of both sides: optimizers, candidates, states, policies."""

    proposal: Any
    fallback: Any


def both(function: Callable, *pairs: Pair) -> Pair:
    """`function` of each side."""
    return Pair(*(function(*sides) for sides in zip(*pairs)))


class Candidate(eqx.Module):
    """Where an optimizer has come since the start of the block."""

    players: PyTree  # `Players`, or the parameters of a training loop
    state: PyTree  # of what advances it: a `FollowerState` where the other's state follows
    finite: Bool[Array, ""]


class FollowerState(NamedTuple):
    """The state of a `Follower`."""

    leader: PyTree
    follower: PyTree


class Follower(AbstractGradientOptimizer):
    """`leader`, while `follower` reads the same gradients and keeps its state consistent with them."""

    leader: AbstractGradientOptimizer
    follower: AbstractGradientOptimizer

    def init_update(self, params: PyTree) -> PyTree:
        return FollowerState(self.leader.init_update(params), self.follower.init_update(params))

    def update(self, gradients: PyTree, state: PyTree, params: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        updates, leader = self.leader.update(gradients, state.leader, params, **extra)
        _, follower = self.follower.update(gradients, state.follower, params, **extra)
        return updates, FollowerState(leader, follower)


def runners(optimizers: Pair, policies: Pair) -> Pair:
    """What advances the candidates: with a follower where the other's policy is to follow."""
    others = Pair(optimizers.fallback, optimizers.proposal)
    policies_of_others = Pair(policies.fallback, policies.proposal)
    return both(
        lambda o, other, policy: Follower(o, other) if policy.follows else o, optimizers, others, policies_of_others
    )


def begin(players: PyTree, states: Pair, policies: Pair, alone: Pair) -> Pair:
    """Both candidates at the start of a block: at `players`, or at the end of a run of their own."""
    followers = Pair(
        FollowerState(*states) if policies.fallback.follows else states.proposal,
        FollowerState(states.fallback, states.proposal) if policies.proposal.follows else states.fallback,
    )
    return both(lambda state, own: Candidate(players if own is None else own, state, jnp.array(True)), followers, alone)


def own_runs(accepted: PyTree, policies: Pair, candidates: Pair) -> Pair:
    """The players of those that have a run of their own, `None` for the others. One that failed goes on from the
    accepted players."""
    return both(
        lambda policy, c: select(c.finite, c.players, accepted) if policy.runs_alone else None, policies, candidates
    )


def advance(
    problem: AbstractProblem, optimizer: AbstractOptimizer, candidate: Candidate, samples: Sample, num_steps: int
) -> tuple[Candidate, StepInfo]:
    """`num_steps` updates, on the first of the samples, and the stacked infos of the steps."""
    calls, per_call = num_steps // optimizer.updates_per_step, optimizer.samples_per_step
    xs = jax.tree.map(lambda x: x[: calls * per_call].reshape(calls, per_call, *x.shape[1:]), samples)
    step = OptimizerStep(problem, optimizer)
    out = rollout(step, (candidate.players, candidate.state), xs, num_steps=calls, throw=False)
    finite = candidate.finite & jnp.asarray(out.result == RESULTS.successful)
    return Candidate(*out.carry, finite), out.info


def states_after(use_proposal: Bool[Array, ""], policies: Pair, before: Pair, candidates: Pair, initial: Pair) -> Pair:
    """The states of both after a decision; `before` are those at the start of the block."""
    ends = Pair(candidates.proposal.state, candidates.fallback.state)
    leads = Pair(policies.fallback.follows, policies.proposal.follows)  # whose state holds the other's as well
    own = both(lambda state, leads: state.leader if leads else state, ends, leads)
    followed = both(lambda state, leads: state.follower if leads else None, ends, leads)
    followed = Pair(followed.fallback, followed.proposal)

    def after(taken, policy, *states):
        return healthy(select(taken, states[1], policy.state(NotTaken(*states))), states[0])

    return both(after, Pair(use_proposal, ~use_proposal), policies, before, own, initial, followed)


def num_samples(optimizer: AbstractOptimizer, num_steps: int) -> int:
    """The number of samples that `num_steps` updates take."""
    calls, rest = divmod(num_steps, optimizer.updates_per_step)
    if rest:
        raise ValueError(
            f"{type(optimizer).__name__} makes {optimizer.updates_per_step} updates per step, so `num_steps` of a "
            f"guard around it must be a multiple of that; got {num_steps}."
        )
    return calls * optimizer.samples_per_step


def healthy(state: PyTree, before: PyTree) -> PyTree:
    """`state`, or the one at the start of the block if it holds inf or NaN: a rejected run must not poison later ones.

    Some states hold inf on purpose (a line search's bounds), so only what was finite before has to be.
    """
    return select(all_finite(state) | ~all_finite(before), state, before)


def check_positive(**numbers: Any) -> None:
    """Raises `ValueError` unless all are integers of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
