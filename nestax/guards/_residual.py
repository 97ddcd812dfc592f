"""GL2O, or Safe-L2O: accept a proposal whose fixed-point residual is small enough."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._gradients import joint_gradient
from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, Cost, StepInfo, apply_updates, as_transformation
from .._problem import AbstractProblem, Players, Sample
from .._rollout import all_finite, select
from .._tree import common_dtype
from ..optimizers import as_gradient_optimizer
from ._candidates import healthy
from ._fixed_point_maps import AbstractFixedPointMap
from ._optax import check_gradients, refuse_masks
from ._policies import AbstractStatePolicy, Keep, NotTaken, check_policy
from ._sequences import AbstractSequence, ExponentialMovingAverage


class ResidualDecision(eqx.Module):
    """A decision of a residual guard, in `StepInfo.aux`.

    - `accepted`: 1.0 where the proposal was accepted, else 0.0.
    - `residual`: of the proposal; `inf` where it is not finite.
    - `threshold`: $\\alpha\\mu_k$, with which it was compared.
    """

    accepted: Float[Array, ""]
    residual: Float[Array, ""]
    threshold: Float[Array, ""]


class ResidualGuardState(eqx.Module):
    """The guarded optimizer's state, the threshold with its sequence's state, and the number of steps."""

    proposal: PyTree
    initial: PyTree  # its first one, where the policy needs it
    threshold: Float[Array, ""]
    sequence: PyTree
    count: Int[Array, ""]


class ResidualGuard(AbstractOptimizer):
    r"""GL2O: an optimizer whose proposals are accepted where their fixed-point residual has fallen enough.

    With the fallback map $T$ and its residual $S(x) = x - T(x)$, a proposal $y$ is judged by

    $$x_{k+1} = \begin{cases} y & \text{if } \lVert S(y) \rVert \le \alpha \mu_k \\
    T(x_k) & \text{otherwise,} \end{cases}$$

    and $\mu$ changes by `sequence` where $y$ was accepted; $\mu_1 = \lVert S(x_1) \rVert$. If $T$ is averaged (convex
    losses), the distance of $x_k$ to its fixed points goes to zero. The loss may rise at an accepted step; and where it
    is not convex the method may end at any stationary point, since only the residual is tested. On noisy problems both
    gradients of a step are taken on the same minibatch.

    **Arguments:**

    - `proposal`: what proposes: any `AbstractGradientOptimizer` or Optax transformation.
    - `fallback`: `GradientDescentMap` or `ProximalGradientMap`. With a decaying learning rate the residual is
      computed with the rate of step 0, so that thresholds stay comparable.
    - `sequence`: `ExponentialMovingAverage` (default), `GeometricSequence`, `RecentTerm`, `ArithmeticAverage` or
      `RecentMax`.
    - `alpha`: in [0, 1). Default 0.99.
    - `on_reject`: what becomes of the proposing optimizer's state after a rejection: `Keep()` (default), `Restore()`,
      `Count()` or `Reset()`.

    **Cost** per update: two gradients, the second after the proposal. `StepInfo.aux` is a `ResidualDecision`.

    **Raises** `ValueError` for an `alpha` outside [0, 1), an optimizer that needs more than gradients, several players.

    **Source:** H. Heaton, X. Chen, Z. Wang, W. Yin, *Safeguarded learned convex optimization*, AAAI 2023. The
    learning-to-optimize literature calls the method GL2O. $\theta$ and $\alpha$ of the defaults are our choice.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> learned = nx.learned.RNNprop(key=jax.random.key(0))  # not even trained
    >>> guard = nx.guards.ResidualGuard(learned, nx.guards.GradientDescentMap(0.2))
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 4.0]))
    >>> solution = nx.solve(problem, guard, num_steps=200, key=jax.random.key(1))
    >>> bool(solution.losses[-1, 0] < 1e-5)
    True

    ```
    """

    proposal: AbstractGradientOptimizer
    fallback: AbstractFixedPointMap
    sequence: AbstractSequence
    alpha: Float[Array, ""]
    on_reject: AbstractStatePolicy

    def __init__(
        self,
        proposal: AbstractOptimizer | optax.GradientTransformation,
        fallback: AbstractFixedPointMap,
        *,
        sequence: AbstractSequence | None = None,
        alpha: float | Float[Array, ""] = 0.99,
        on_reject: AbstractStatePolicy | None = None,
    ):
        if not isinstance(fallback, AbstractFixedPointMap):
            raise ValueError(
                "`fallback` must be an `AbstractFixedPointMap` such as `GradientDescentMap(0.1)`, got a "
                f"{type(fallback).__name__}."
            )
        if isinstance(alpha, int | float) and not 0 <= alpha < 1:
            raise ValueError(f"`alpha` must be in [0, 1), got {alpha}.")
        self.proposal, self.fallback = as_gradient_optimizer(proposal, "proposal"), fallback
        self.sequence = ExponentialMovingAverage() if sequence is None else sequence
        self.alpha = jnp.asarray(alpha, float)
        policy = Keep() if on_reject is None else on_reject
        self.on_reject = check_policy(policy, "on_reject", AbstractStatePolicy)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> ResidualGuardState:
        del key
        if len(players) != 1:
            raise ValueError(
                f"A residual guard is for problems with one player; {type(problem).__name__} has {len(players)}."
            )
        return self._init(players)

    def _init(self, params: PyTree) -> ResidualGuardState:
        dtype = common_dtype(params, jnp.float32)
        nothing = jnp.full((), jnp.inf, dtype)  # replaced at the first step, when the first residual is known
        state = self.proposal.init_update(params)
        initial = state if self.on_reject.needs_initial else None
        return ResidualGuardState(state, initial, nothing, self.sequence.init(nothing), jnp.array(0))

    def step(
        self, problem: AbstractProblem, players: Players, state: ResidualGuardState, samples: Sample
    ) -> tuple[Players, ResidualGuardState, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradients = joint_gradient(problem, players, sample)
        players, state, decision = self._choose(
            players, gradients, state, lambda y: joint_gradient(problem, y, sample)[1]
        )
        return players, state, StepInfo(losses, Cost(gradients=2), decision)

    def _choose(
        self, params: PyTree, gradients: PyTree, state: ResidualGuardState, gradient: Callable[[PyTree], PyTree]
    ) -> tuple[PyTree, ResidualGuardState, ResidualDecision]:
        updates, after = self.proposal.update(gradients, state.proposal, params)
        proposal = apply_updates(params, updates)
        fallback = self.fallback.apply(params, gradients, self.fallback.rate(state.count))
        first = self._residual(params, gradients)
        threshold = jnp.where(state.count == 0, first, state.threshold)
        sequence = select(state.count == 0, self.sequence.init(first), state.sequence)
        residual = self._residual(proposal, gradient(proposal))
        residual = jnp.where(all_finite(proposal) & jnp.isfinite(residual), residual, jnp.inf)
        limit = self.alpha.astype(threshold.dtype) * threshold
        accept = residual <= limit
        lowered, advanced = self.sequence.accept(threshold, sequence, residual)
        not_taken = NotTaken(state.proposal, after, state.initial, None)
        state = ResidualGuardState(
            healthy(select(accept, after, self.on_reject.state(not_taken)), state.proposal),
            state.initial,
            jnp.where(accept, lowered, threshold),
            select(accept, advanced, sequence),
            state.count + 1,
        )
        decision = ResidualDecision(accept.astype(limit.dtype), residual, limit)
        return select(accept, proposal, fallback), state, decision

    def _residual(self, params: PyTree, gradients: PyTree) -> Float[Array, ""]:
        """The norm of $x - T(x)$, with the learning rate of step 0."""
        moved = self.fallback.apply(params, gradients, self.fallback.rate(0))
        dtype = common_dtype(params, jnp.float32)
        distances = jax.tree.map(lambda p, m: jnp.sum((p - m).astype(dtype) ** 2), params, moved)
        return jnp.sqrt(sum(jax.tree.leaves(distances), start=jnp.zeros((), dtype)))

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """This guard as an Optax transformation: `update` takes `value_fn`, the loss of this step's minibatch.

        What transforms gradients goes inside, as for `LossGuard.as_optax`; the first step fails if they were
        transformed before.

        **Raises** `ValueError` for a missing `value_fn`, and inside `optax.masked` or `optax.multi_transform`.
        """
        return as_transformation(self._loop_init, self._loop_update)

    def _loop_init(self, params: PyTree) -> ResidualGuardState:
        refuse_masks(params)
        return self._init(params)

    def _loop_update(
        self,
        updates: PyTree,
        state: ResidualGuardState,
        params: PyTree | None = None,
        *,
        value_fn: Callable | None = None,
        **extra: Any,
    ) -> tuple[PyTree, ResidualGuardState]:
        del extra
        if params is None or value_fn is None:
            raise ValueError(
                "A residual guard takes a second gradient, so its `update` needs the parameters and the loss: call "
                "`update(gradients, state, params, value_fn=loss)`, where `loss(params)` is this minibatch's."
            )
        refuse_masks(params)
        first = state.count == 0
        own = jax.lax.cond(first, lambda: jax.grad(value_fn)(params), lambda: updates)
        gradients, _ = check_gradients(updates, own, first, jnp.zeros_like(state.threshold))
        chosen, state, _ = self._choose(params, gradients, state, jax.grad(value_fn))
        return jax.tree.map(jnp.subtract, chosen, params), state
