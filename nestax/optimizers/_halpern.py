"""Halpern's iteration on a resolvent: the implicit method with an optimal rate for monotone games."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._gradients import evaluate_losses
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._resolvent import toward_anchor
from .._tree import Scalar, upcast
from ._resolvents import AbstractResolventSolver, Resolvent


class HalpernState(eqx.Module):
    """The anchor, the number of steps, and what the resolvent has prepared."""

    # constant over a run
    anchor: PyTree  # the initial players, in float32 at least
    prepared: PyTree
    # changes
    count: Int[Array, ""]


class Halpern(AbstractOptimizer):
    r"""Halpern's iteration on the resolvent $J = (I + \alpha g)^{-1}$ of the joint gradient $g$, with the anchor $u_1$:

    $$u_{k+1} = \frac{1}{k+1}\, u_1 + \frac{k}{k+1}\, J(u_k), \qquad k = 1, 2, \dots$$

    For monotone $g$ (convex minimization, convex-concave games) and any $\alpha > 0$ the residual falls as
    $\lVert u_k - J u_k \rVert \le 2 d / (k + 1)$, with the distance $d$ of $u_1$ to the solutions, and $u_k$ converges
    to a solution. Away from the anchor it forgets nothing: no linear rate.

    **Arguments:**

    - `step_size`: $\alpha$, that of the resolvent. No default: the larger, the better conditioned, and the costlier
      where the resolvent has to be iterated.
    - `resolvent`: how the resolvent is computed. Default `None`: in closed form, as `BilinearGame`, `QuadraticGame`,
      `Saddle` and `RotatedSaddle` have it. For other problems `NewtonResolvent` or `FixedPointResolvent`.

    **Cost** per step: one resolvent, in `StepInfo.cost.resolvents`, and the joint gradients that a general solver takes
    for it. The reported losses are not part of the method and are not counted.

    **Raises** `ValueError` for a `step_size` that is not positive, and for a problem without a resolvent.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.BilinearGame.random(jax.random.key(0))
    >>> solution = nx.solve(problem, nx.optimizers.Halpern(10.0), num_steps=1_000, key=jax.random.key(1))
    >>> all(bool(d < 0.05) for d in problem.distances(solution.players))
    True

    ```

    **Source:** B. Halpern (1967); the rate is F. Lieder, *On the convergence rate of the Halpern-iteration*, Optim.
    Lett. 2021; as a fallback for games Shen et al., ICLR 2021, section 3.
    """

    implicit: Resolvent

    def __init__(self, step_size: Scalar, resolvent: AbstractResolventSolver | None = None):
        self.implicit = Resolvent(step_size, resolvent)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> HalpernState:
        del key
        return HalpernState(upcast(players), self.implicit.prepare(problem), jnp.array(1))

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, HalpernState, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses = jnp.stack(evaluate_losses(problem, players, sample))
        image, num_gradients = self.implicit(problem, players, sample, state.prepared)
        players = toward_anchor(state.anchor, image, state.count)
        state = HalpernState(state.anchor, state.prepared, state.count + 1)
        return players, state, StepInfo(losses, Cost(num_gradients, resolvents=1))
