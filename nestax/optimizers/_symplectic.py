"""Symplectic gradient adjustment: turn the joint gradient against the rotation of the game."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, named, optional
from .._gradients import game_jvp, game_vjp, joint_gradient
from .._optimizer import AbstractGradientOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._tree import add_scaled, dot
from ._adjusted import AbstractAdjustedGradient, as_base


class SymplecticGradientAdjustment(AbstractAdjustedGradient):
    r"""Symplectic gradient adjustment (SGA): the joint gradient $g$ plus its turn by the antisymmetric part of $J$,

    $$\tilde g = g + \lambda A^\top g, \qquad A = \tfrac12 (J - J^\top),$$

    with the game Jacobian $J$. Without rotation ($A = 0$, a potential game) it is the joint gradient. Unlike consensus
    optimization it is not attracted by unstable fixed points if the sign of $\lambda$ is chosen by **alignment**:

    $$\lambda = s \cdot \operatorname{sign}\bigl(\tfrac1d \langle g, h \rangle \langle A^\top g, h \rangle
    + \epsilon\bigr), \qquad h = J^\top g = \tfrac12 \nabla \lVert g \rVert^2,$$

    $d$ the number of coordinates of all players. Cost: 5 gradients per step (two products).

    **Arguments:**

    - `optimizer`: a learning rate, for gradient descent, or any gradient optimizer.
    - `strength`: $s$. Default 1, as in the source.
    - `alignment`: $\epsilon$, which prefers a positive sign where the inner products are small. Default 0.1, as in the
      source. `None`: no alignment, $\lambda = s$.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.SymplecticGradientAdjustment(0.1)

    ```

    **Source:** Balduzzi et al., "The mechanics of n-player differentiable games" (ICML 2018), Algorithm 1.
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    strength: Float[Array, ""] = eqx.field(converter=named(finite, "strength"), default=1.0)
    alignment: Float[Array, ""] | None = eqx.field(converter=optional(named(finite, "alignment")), default=0.1)

    def adjusted_gradient(self, problem: AbstractProblem, players: Players, sample: Sample):
        losses, gradient = joint_gradient(problem, players, sample)
        forward = game_jvp(problem, players, sample, gradient)
        transposed = game_vjp(problem, players, sample, gradient)
        turned = jax.tree.map(lambda t, f: (t - f) / 2, transposed, forward)
        strength = self.strength
        if self.alignment is not None:
            num = sum(x.size for x in jax.tree.leaves(players))
            product = dot(gradient, transposed) * dot(turned, transposed) / num
            # of two signs, never zero: the adjustment must not vanish where the argument does
            sign = jnp.where(product + self.alignment.astype(product.dtype) >= 0, 1, -1)
            strength = strength * sign.astype(strength.dtype)
        return losses, add_scaled(gradient, strength, turned), 5
