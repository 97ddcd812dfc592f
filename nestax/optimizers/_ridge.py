"""Follow the ridge: the follower makes up for what the leader's move does to its optimality."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count, nonnegative, positive
from .._gradients import joint_gradient
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._tree import Scalar, add_scaled, upcast
from ._linear import solve_normal
from ._play import own_gradient


def _check_two(players: Players) -> None:
    if len(players) != 2:
        raise ValueError(
            f"FollowTheRidge is a method for two players, a leader and a follower, got {len(players)}. For more or "
            "fewer use Extragradient or ConsensusOptimization, for example."
        )


class FollowTheRidge(AbstractOptimizer):
    r"""Follow the ridge (FR), for sequential zero-sum games $\min_x \max_y f$ with the losses $(f, -f)$:

    $$x \leftarrow x - \eta_x\, \partial_x f, \qquad
    y \leftarrow y + \eta_y\, \partial_y f + \eta_x\, (\partial_{yy} f)^{-1} \partial_{yx} f\; \partial_x f.$$

    The last term keeps $y$ on the ridge $\partial_y f = 0$ while $x$ moves. Its stable fixed points are exactly the
    local minimax points: at one, the Jacobian of the step has the real eigenvalues of $I - \eta_x S$ and
    $I + \eta_y\, \partial_{yy} f$, with $S$ the Schur complement, so there is no rotation.

    The leader is the first player. The inverse is applied without matrices, by conjugate gradients on
    $((\partial_{yy} f)^2 + \rho I)\, s = \partial_{yy} f\, b$, since $\partial_{yy} f$ need not be definite on the way.
    In float32 at least. `StepInfo.cost.gradients` counts each product as two gradients: $5 + 4 k$ for $k$ iterations,
    and `StepInfo.aux` is $k$.

    The leader follows its partial derivative, as in the source's Algorithm 1. In a general-sum game, where
    $\partial_y L_1$ does not vanish on the ridge, that is not the leader's total derivative.

    **Arguments:**

    - `learning_rate`: $\eta_x$, of the leader.
    - `follower_rate`: $\eta_y$. Default: equal to the leader's.
    - `damping`: $\rho$, in units of squared curvature. Default 0, the rule as published; raise it where
      $\partial_{yy} f$ is singular.
    - `tolerance`, `max_steps`: as in `CompetitiveGradientDescent`.

    **Raises** `ValueError` for a problem that does not have two players.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.FollowTheRidge(0.05)

    ```

    **Source:** Wang, Zhang and Ba, "On solving minimax optimization locally: a follow-the-ridge approach" (ICLR 2020),
    Algorithm 1.
    """

    learning_rate: Float[Array, ""]
    follower_rate: Float[Array, ""]
    damping: Float[Array, ""]
    tolerance: Float[Array, ""]
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Scalar,
        follower_rate: Scalar | None = None,
        damping: Scalar = 0.0,
        tolerance: Scalar = 1e-6,
        max_steps: int = 100,
    ):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.follower_rate = (
            self.learning_rate if follower_rate is None else nonnegative(follower_rate, "follower_rate")
        )
        self.damping = nonnegative(damping, "damping")
        self.tolerance = positive(tolerance, "tolerance")
        self.max_steps = count(max_steps, "max_steps")

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> None:
        del problem, key
        _check_two(players)

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        _check_two(players)
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, (leaders, followers) = joint_gradient(problem, players, sample)
        dtypes = jax.tree.map(lambda x: x.dtype, players)

        def follower_gradient(wide_players: Players):
            narrow = jax.tree.map(lambda x, dtype: x.astype(dtype), wide_players, dtypes)
            return upcast(own_gradient(problem, narrow, sample, 1)[1])

        start = upcast(players)
        _, along = jax.linearize(follower_gradient, start)
        nothing = jax.tree.map(jnp.zeros_like, start)

        def hessian(v):
            return along((nothing[0], v))

        # Both factors change sign from f to the follower's loss -f, so the product does not.
        drift = along((upcast(leaders), nothing[1]))
        correction, num_steps = solve_normal(hessian, hessian, drift, self.tolerance, self.max_steps, self.damping)
        leader = add_scaled(players[0], -self.learning_rate, leaders)
        follower = add_scaled(upcast(players[1]), -self.follower_rate, followers)
        follower = add_scaled(follower, self.learning_rate, correction)
        follower = jax.tree.map(lambda x, p: x.astype(p.dtype), follower, players[1])
        info = StepInfo(losses, Cost(gradients=5 + 4 * num_steps), aux=num_steps)
        return (leader, follower), state, info
