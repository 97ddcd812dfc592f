"""Gradient descent that is pulled back to where it began, ever more weakly."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._checks import fraction, nonnegative
from .._optimizer import AbstractGradientOptimizer
from .._tree import Scalar, upcast


class AnchoringState(eqx.Module):
    """The initial players, in float32 at least, and the number of steps."""

    anchor: PyTree
    count: Int[Array, ""]


class Anchoring(AbstractGradientOptimizer):
    r"""Simultaneous gradient descent with anchoring (SimGD-A), on the joint gradient $g$, $k = 0, 1, \dots$:

    $$\theta_{k+1} = \theta_k - \eta\, \frac{1 - p}{(k+1)^p}\, g(\theta_k)
    + \frac{(1 - p)\, \gamma}{k + 1}\, (\theta_0 - \theta_k).$$

    It is Euler's scheme for $\dot\theta = -g(\theta) + \frac{\gamma}{t} (\theta_0 - \theta)$ in the time
    $t = (k + 1)^{1 - p}$. Converges, slowly, where simultaneous descent circles.

    **Arguments:**

    - `learning_rate`: $\eta$. Default 1, the rule as published; it is there to be tuned.
    - `power`: $p$, in (1/2, 1). Default 0.55: the closer to 1/2 the faster on bilinear games.
    - `anchoring`: $\gamma$. Default 2, the least that the theory allows.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.BilinearGame(jnp.array([[1.0]]))
    >>> players = (jnp.ones(1), jnp.ones(1))
    >>> optimizer = nx.optimizers.Anchoring()
    >>> solution = nx.solve(problem, optimizer, num_steps=10_000, key=jax.random.key(0), players=players)
    >>> round(float(jnp.hypot(solution.players[0][0], solution.players[1][0])), 2)
    0.04

    ```

    **Source:** E. Ryu, K. Yuan, W. Yin, *ODE analysis of stochastic gradient methods with optimism and anchoring for
    minimax problems*, 2019. Deviation: $\eta$.
    """

    learning_rate: Float[Array, ""]
    power: Float[Array, ""]
    anchoring: Float[Array, ""]

    def __init__(self, learning_rate: Scalar = 1.0, power: Scalar = 0.55, anchoring: Scalar = 2.0):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.power = fraction(power, "power")
        self.anchoring = nonnegative(anchoring, "anchoring")

    def init_update(self, params: PyTree) -> AnchoringState:
        return AnchoringState(upcast(params), jnp.array(0))

    def update(self, gradients: PyTree, state: Any, params: PyTree, **extra: Any) -> tuple[PyTree, AnchoringState]:
        del extra

        def leaf(g, anchor, p):
            dtype = anchor.dtype
            time, power = (state.count + 1).astype(dtype), self.power.astype(dtype)
            step = self.learning_rate.astype(dtype) * (1 - power) / time**power
            pull = (1 - power) * self.anchoring.astype(dtype) / time
            return pull * (anchor - p.astype(dtype)) - step * g.astype(dtype)

        updates = jax.tree.map(leaf, gradients, state.anchor, params)
        return updates, AnchoringState(state.anchor, state.count + 1)
