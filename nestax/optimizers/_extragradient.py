"""Extragradient: look where the gradient leads, and go by the gradient there."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import flag, nonnegative
from .._gradients import joint_gradient
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._tree import Scalar, add_scaled


class Extragradient(AbstractOptimizer):
    r"""Extragradient with a step of extrapolation of its own, $\alpha'$, on the joint gradient $g$:

    $$\theta' = \theta - \alpha' g(\theta), \qquad \theta \leftarrow \theta - \alpha\, g(\theta').$$

    Two joint gradients per step. Converges on bilinear games, where simultaneous descent diverges.

    **Arguments:**

    - `learning_rate`: $\alpha$.
    - `extrapolation`: $\alpha'$. Default: equal to the learning rate. Where a game is nearly cooperative a
      longer $\alpha$ with a shorter $\alpha'$ is much faster.
    - `independent_samples`: evaluate the second gradient on a sample of its own (two per step), as the theory of the
      stochastic method needs. Default: the same sample twice, which in practice has less noise.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.Extragradient(0.1)

    ```

    **Source:** Korpelevich (1976); for stochastic games with both ways of sampling Gidel et al., "A variational
    inequality perspective on generative adversarial networks" (ICLR 2019).
    """

    learning_rate: Float[Array, ""]
    extrapolation: Float[Array, ""]
    independent_samples: bool = eqx.field(static=True)

    def __init__(self, learning_rate: Scalar, extrapolation: Scalar | None = None, independent_samples: bool = False):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.extrapolation = (
            self.learning_rate if extrapolation is None else nonnegative(extrapolation, "extrapolation")
        )
        self.independent_samples = flag(independent_samples, "independent_samples")

    @property
    def samples_per_step(self) -> int:
        return 2 if self.independent_samples else 1

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> None:
        del problem, players, key

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        losses, gradient = joint_gradient(problem, players, jax.tree.map(lambda x: x[0], samples))
        ahead = add_scaled(players, -self.extrapolation, gradient)
        _, gradient = joint_gradient(problem, ahead, jax.tree.map(lambda x: x[-1], samples))
        return add_scaled(players, -self.learning_rate, gradient), state, StepInfo(losses, Cost(gradients=2))
