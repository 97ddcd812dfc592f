"""Consensus optimization: descend on the norm of the joint gradient as well."""

import equinox as eqx
from jaxtyping import Array, Float

from .._checks import named, nonnegative
from .._gradients import game_vjp, joint_gradient
from .._optimizer import AbstractGradientOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._tree import add_scaled
from ._adjusted import AbstractAdjustedGradient, as_base


class ConsensusOptimization(AbstractAdjustedGradient):
    r"""Consensus optimization: the joint gradient $g$ plus that of $\tfrac{\gamma}{2} \lVert g \rVert^2$,

    $$\tilde g = g + \gamma J^\top g$$

    with the game Jacobian $J$. Damps rotation: an eigenvalue $\lambda$ of a normal $J$ becomes
    $\lambda + \gamma |\lambda|^2$. It is attracted by every zero of $g$, also by unstable ones, if $\gamma$ is large.
    Cost: 3 gradients per step (one product).

    **Arguments:**

    - `optimizer`: a learning rate, for gradient descent, or any gradient optimizer (the source used RMSprop).
    - `regularization`: $\gamma$, in units of one over curvature. No default: it depends on the game (the source's GANs
      use 10).

    With mini-batches both factors of the product are from the same sample, so $J^\top g$ is biased, as in the source.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.ConsensusOptimization(nx.optimizers.rmsprop(1e-4), regularization=10.0)

    ```

    **Source:** Mescheder, Nowozin and Geiger, "The numerics of GANs" (NeurIPS 2017), Algorithm 2.
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    regularization: Float[Array, ""] = eqx.field(converter=named(nonnegative, "regularization"))

    def adjusted_gradient(self, problem: AbstractProblem, players: Players, sample: Sample):
        losses, gradient = joint_gradient(problem, players, sample)
        product = game_vjp(problem, players, sample, gradient)
        return losses, add_scaled(gradient, self.regularization, product), 3
