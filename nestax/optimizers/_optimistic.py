"""Optimistic gradient descent: extrapolate by the last gradient instead of a new one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .._checks import nonnegative
from .._optimizer import AbstractGradientOptimizer
from .._tree import Scalar, upcast


class OptimisticState(eqx.Module):
    """The last gradient, in float32 at least, and whether there is one."""

    previous: PyTree
    started: Bool[Array, ""]


class OptimisticGradient(AbstractGradientOptimizer):
    r"""Optimistic gradient descent: $\theta \leftarrow \theta - 2 \alpha\, g_t + \alpha' g_{t-1}$.

    One joint gradient per step. With $\alpha' = \alpha$ it is the standard form. **With $\alpha' = 0$ it is gradient
    descent with the step $2 \alpha$**: the form $\theta - a\, g_t - a' (g_t - g_{t-1})$ is this one with
    $\alpha = (a + a') / 2$ and $\alpha' = a'$. At the first step $g_{-1} = g_0$.

    **Arguments:**

    - `learning_rate`: $\alpha$.
    - `extrapolation`: $\alpha'$. Default: equal to the learning rate.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.OptimisticGradient(0.1)
    >>> in_turns = nx.optimizers.Alternating(optimizer)

    ```

    **Source:** Popov (1980); Daskalakis et al., "Training GANs with optimism" (ICLR 2018); the two steps as in
    Lorraine et al. (AISTATS 2022).
    """

    learning_rate: Float[Array, ""]
    extrapolation: Float[Array, ""]

    def __init__(self, learning_rate: Scalar, extrapolation: Scalar | None = None):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.extrapolation = (
            self.learning_rate if extrapolation is None else nonnegative(extrapolation, "extrapolation")
        )

    def init_update(self, params: PyTree) -> OptimisticState:
        return OptimisticState(jax.tree.map(jnp.zeros_like, upcast(params)), jnp.array(False))

    def update(self, gradients: PyTree, state: Any, params: PyTree, **extra: Any) -> tuple[PyTree, OptimisticState]:
        del params, extra
        gradients = upcast(gradients)

        def leaf(g, previous):
            previous = jnp.where(state.started, previous, g)
            return self.extrapolation.astype(g.dtype) * previous - 2 * self.learning_rate.astype(g.dtype) * g

        return jax.tree.map(leaf, gradients, state.previous), OptimisticState(gradients, jnp.array(True))
