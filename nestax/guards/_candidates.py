"""What the loss guards share: two candidates advanced on the same samples, and the states after a decision."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._rollout import RESULTS, all_finite, rollout, select
from .._step import OptimizerStep
from ..optimizers import as_gradient_optimizer, as_optimizer

OnReject = Literal["keep", "restore", "reset", "follow", "own"]
OnAccept = Literal["count", "follow", "own"]


class Candidate(eqx.Module):
    """Where one of the two optimizers has come since the start of the block."""

    players: PyTree  # `Players`, or the parameters of a training loop
    state: PyTree
    finite: Bool[Array, ""]


class Follower(AbstractGradientOptimizer):
    """`leader`, while `follower` reads the same gradients and keeps its state consistent with them."""

    leader: AbstractGradientOptimizer
    follower: AbstractGradientOptimizer

    def init_update(self, params: PyTree) -> PyTree:
        return self.leader.init_update(params), self.follower.init_update(params)

    def update(self, gradients: PyTree, state: PyTree, params: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        updates, leader = self.leader.update(gradients, state[0], params, **extra)
        _, follower = self.follower.update(gradients, state[1], params, **extra)
        return updates, (leader, follower)


class Pair(eqx.Module):
    """The guarded optimizer, its fallback, and what becomes of the state of the one that was not taken."""

    optimizer: AbstractOptimizer
    fallback: AbstractOptimizer
    on_reject: OnReject = eqx.field(static=True)
    on_accept: OnAccept = eqx.field(static=True)

    def __init__(self, optimizer: Any, fallback: Any, on_reject: str, on_accept: str):
        self.optimizer = as_optimizer(optimizer, "optimizer")
        self.fallback = as_optimizer(fallback, "fallback")
        for name, value, known in (("on_reject", on_reject, OnReject), ("on_accept", on_accept, OnAccept)):
            if value not in get_args(known):
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, get_args(known)))}, got {value!r}.")
        self.on_reject, self.on_accept = on_reject, on_accept  # pyright: ignore[reportAttributeAccessIssue]
        if "follow" in (on_reject, on_accept):
            self.check_gradient_optimizers()

    def check_gradient_optimizers(self) -> None:
        """Raises `ValueError` unless both can read gradients that they did not ask for."""
        as_gradient_optimizer(self.optimizer, "optimizer")
        as_gradient_optimizer(self.fallback, "fallback")

    def samples(self, num_steps: int) -> int:
        """How many training samples `num_steps` updates of both take: both read the same ones, from the first on."""
        return max(_num_samples(optimizer, num_steps) for optimizer in (self.optimizer, self.fallback))

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        if len(players) != 1:
            raise ValueError(
                f"A loss guard compares one loss, but {type(problem).__name__} has {len(players)} players. "
                "Guard problems with one player."
            )
        keys = jax.random.split(key)
        return self.optimizer.init(problem, players, keys[0]), self.fallback.init(problem, players, keys[1])

    def own_runs(
        self, accepted: PyTree, candidates: tuple[Candidate, Candidate] | None = None
    ) -> tuple[PyTree, PyTree]:
        """Where those are that have a run of their own, after a block or before the first; `None` for the others.

        One that failed goes on from the accepted players.
        """
        if candidates is None:
            ends = (accepted, accepted)
        else:
            ends = tuple(select(c.finite, c.players, accepted) for c in candidates)
        return ends[0] if self.on_reject == "own" else None, ends[1] if self.on_accept == "own" else None

    def start(
        self, players: PyTree, states: tuple[PyTree, PyTree], own: tuple[PyTree, PyTree] = (None, None)
    ) -> tuple[Candidate, Candidate]:
        """Both candidates at the start of a block, from `own_runs` where there are any."""
        learned, fallback = states
        learned_state = (learned, fallback) if self.on_accept == "follow" else learned
        fallback_state = (fallback, learned) if self.on_reject == "follow" else fallback
        return (
            Candidate(players if own[0] is None else own[0], learned_state, jnp.array(True)),
            Candidate(players if own[1] is None else own[1], fallback_state, jnp.array(True)),
        )

    def runners(self) -> tuple[AbstractOptimizer, AbstractOptimizer]:
        """The optimizers that advance the candidates: with a follower where its state is wanted."""
        learned: Any = self.optimizer
        fallback: Any = self.fallback
        return (
            Follower(learned, fallback) if self.on_accept == "follow" else learned,
            Follower(fallback, learned) if self.on_reject == "follow" else fallback,
        )

    def advance(
        self,
        problem: AbstractProblem,
        candidates: tuple[Candidate, Candidate],
        samples: Sample,
        num_steps: int,
        use_learned: Bool[Array, ""],
    ) -> tuple[tuple[Candidate, Candidate], StepInfo]:
        """Advances both by `num_steps` updates on the same samples. Neither waits for the other.

        `use_learned` is the last decision: it says which of them starts at the accepted players (if not both do).

        **Returns** the candidates, and the losses at the accepted players before the first update with all that was
        evaluated.
        """
        advanced, infos = [], []
        for optimizer, candidate in zip(self.runners(), candidates):
            calls = num_steps // optimizer.updates_per_step
            per_call = optimizer.samples_per_step
            xs = jax.tree.map(
                lambda x, calls=calls, per_call=per_call: x[: calls * per_call].reshape(calls, per_call, *x.shape[1:]),
                samples,
            )
            carry = (candidate.players, candidate.state)
            out = rollout(OptimizerStep(problem, optimizer), carry, xs, num_steps=calls, throw=False)
            finite = candidate.finite & jnp.asarray(out.result == RESULTS.successful)
            advanced.append(Candidate(*out.carry, finite))
            infos.append(out.info)
        learned, fallback = infos
        at_start = jnp.where(use_learned, learned.losses[0], fallback.losses[0])
        cost = jax.tree.map(jnp.sum, learned.cost) + jax.tree.map(jnp.sum, fallback.cost)
        return (advanced[0], advanced[1]), StepInfo(at_start, cost)

    def states(
        self,
        use_learned: Bool[Array, ""],
        before: tuple[PyTree, PyTree],
        candidates: tuple[Candidate, Candidate],
        initial: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """The states of both after the decision; `before` are those at the start of the block."""
        learned, fallback = (c.state for c in candidates)
        if self.on_accept == "follow":
            learned, fallback_follows = learned
        else:
            fallback_follows = _own(fallback, self.on_reject == "follow")
            if self.on_accept == "count":
                fallback_follows = jax.tree.map(_advance_counters, before[1], fallback_follows)
        if self.on_reject == "follow":
            fallback, learned_follows = fallback
        else:
            learned_follows = {"restore": before[0], "reset": initial}.get(self.on_reject, learned)
        learned = select(use_learned, learned, learned_follows)
        fallback = select(use_learned, fallback_follows, fallback)
        return healthy(learned, before[0]), healthy(fallback, before[1])


def _num_samples(optimizer: AbstractOptimizer, num_steps: int) -> int:
    calls, rest = divmod(num_steps, optimizer.updates_per_step)
    if rest:
        raise ValueError(
            f"{type(optimizer).__name__} makes {optimizer.updates_per_step} updates per step, so `num_steps` of a "
            f"guard around it must be a multiple of that; got {num_steps}."
        )
    return calls * optimizer.samples_per_step


def _own(state: PyTree, has_follower: bool) -> PyTree:
    return state[0] if has_follower else state


def _advance_counters(before: Any, after: Any) -> Any:
    """A leaf of a state that was not used: counters go on, so that schedules follow the global step count."""
    return after if eqx.is_array(before) and jnp.issubdtype(before.dtype, jnp.integer) else before


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
