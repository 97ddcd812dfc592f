"""One outer step of hyperparameter tuning, as a step for `rollout`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._nested import InnerProblem
from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, apply_updates
from .._problem import AbstractProblem, Players, Sample
from .._rollout import RESULTS, AbstractStep, rollout
from .._step import OptimizerStep
from .._tree import dot
from ._curvature import inner_loss
from ._inverse import vector_dtype
from ._method import AbstractMethod, Batches, HypergradientInfo
from ._tolerance import AbstractTolerance


class TuningState(eqx.Module):
    """What goes from one outer step to the next: players, both optimizers' states, the last adjoint, and a count."""

    players: Players
    inner_state: PyTree
    outer_state: PyTree
    adjoint: PyTree | None
    count: Int[Array, ""]


class OuterSamples(eqx.Module):
    """The samples of one outer step: of the inner steps, of the hypergradient's losses."""

    steps: Sample
    outer: Sample
    inner: Sample


class OuterInfo(eqx.Module):
    """What one outer step tells: the outer loss where the hypergradient was taken, and the hypergradient's info."""

    outer_loss: Float[Array, ""]
    num_inner_steps: Int[Array, ""]
    hypergradient: HypergradientInfo


class OuterFailure(eqx.Module):
    """What became inf or NaN in one outer step: inner steps, the outer loss, leaves of the players."""

    inner: Bool[Array, ""]
    outer_loss: Bool[Array, ""]
    players: PyTree


class OuterStep(AbstractStep):
    r"""Algorithm 4 of Lorraine (2024): inner steps from the current weights, then one step of the hyperparameters.

    As printed, its line 6 sets $\lambda$ to the hypergradient; an outer optimizer's step with it is meant.
    """

    problem: AbstractProblem
    optimizer: AbstractOptimizer
    outer_optimizer: AbstractGradientOptimizer
    method: AbstractMethod
    tolerance: AbstractTolerance | None
    num_inner_steps: int = eqx.field(static=True)
    max_rounds: int = eqx.field(static=True)

    def init(self, players: Players, key: Any) -> TuningState:
        """The state at the start of a run."""
        hyperparameters, weights = players
        inner_state = self.optimizer.init(InnerProblem(self.problem, hyperparameters), (weights,), key)
        adjoint = jax.tree.map(jnp.zeros_like, weights) if self.method.warm_start else None
        outer_state = self.outer_optimizer.init_update(hyperparameters)
        return TuningState(players, inner_state, outer_state, adjoint, jnp.zeros((), jnp.int32))

    def iterate(self, carry: TuningState) -> Players:
        return carry.players

    def __call__(self, carry: TuningState, x: OuterSamples) -> tuple[TuningState, OuterInfo]:
        new, info, failure = self.attempt(carry, x)
        # Inner steps that failed are frozen at finite weights: `rollout` has to see the failure in the iterate.
        failed = failure.inner | failure.outer_loss
        players = jax.tree.map(lambda leaf: jnp.where(failed, jnp.full_like(leaf, jnp.nan), leaf), new.players)
        return eqx.tree_at(lambda state: state.players, new, players), info

    def attempt(self, carry: TuningState, x: OuterSamples) -> tuple[TuningState, OuterInfo, OuterFailure]:
        """The step, and what became inf or NaN in it."""
        hyperparameters, weights = carry.players
        method, tolerance = self.method, None
        if self.tolerance is not None:
            tolerance = self.tolerance(carry.count).astype(vector_dtype(weights))
            method = method.with_tolerance(tolerance)
        weights, inner_state, rounds, failed = self._train(hyperparameters, weights, carry.inner_state, x, tolerance)
        batches = x.outer if self.method.num_batches is None else Batches(x.outer, x.inner)
        out = method(self.problem, (hyperparameters, weights), batches, carry.adjoint)
        updates, outer_state = self.outer_optimizer.update(out.gradient, carry.outer_state, hyperparameters)
        players = (apply_updates(hyperparameters, updates), out.weights)
        adjoint = None if carry.adjoint is None else out.adjoint
        new = TuningState(players, inner_state, outer_state, adjoint, carry.count + 1)
        info = OuterInfo(out.value, rounds * self.num_inner_steps, out.info)
        bad = jax.tree.map(lambda leaf: ~jnp.all(jnp.isfinite(leaf)), players)
        return new, info, OuterFailure(failed, ~jnp.isfinite(out.value), bad)

    def _train(self, hyperparameters, weights, state, x, tolerance):
        """The inner steps; with a tolerance, rounds of them until the inner gradient is that short, or they fail."""
        one, fine = jnp.ones((), jnp.int32), jnp.zeros((), bool)
        if self.num_inner_steps == 0:
            return weights, state, one, fine
        own = InnerProblem(self.problem, hyperparameters)
        step = OptimizerStep(own, self.optimizer)

        def steps(carry):
            out = rollout(step, carry, x.steps, num_steps=self.num_inner_steps, throw=False)
            return out.carry, out.result != RESULTS.successful

        if tolerance is None:
            (players, state), failed = steps(((weights,), state))
            return players[0], state, one, failed

        def unfinished(loop):
            ((players, _), failed), rounds = loop
            gradient = jax.grad(lambda w: inner_loss(self.problem, hyperparameters, w, x.outer))(players[0])
            return (dot(gradient, gradient) > tolerance**2) & (rounds < self.max_rounds) & ~failed

        start = (((weights,), state), fine), jnp.zeros((), jnp.int32)
        loop = jax.lax.while_loop(unfinished, lambda l: (steps(l[0][0]), l[1] + 1), start)
        ((players, state), failed), rounds = loop
        return players[0], state, rounds, failed
