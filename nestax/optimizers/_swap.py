"""Every player follows the other's gradient: what solves a game whose coupling has a known sign."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import finite, named
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample, check_zero_sum
from .._tree import add_scaled
from ._play import own_gradient


class SwappedGradient(AbstractOptimizer):
    r"""Players in turn follow the gradient of the other player's variable, in $\min_x \max_y f(x, y)$:

    $$x \leftarrow x + \alpha\, \partial_y f(x, y), \qquad y \leftarrow y + \alpha\, \partial_x f(x, y).$$

    A baseline that needs no learning. On $f = c\, x y$ with $c < 0$ these are two decays, where gradient descent only
    circles; with $c > 0$ both grow, and $\alpha < 0$ is needed. So it works where the coupling has one known sign at
    every solution: at the saddle points of `Seesaw` it is $-a b \pi \cos(k \pi)$, negative for even $k$. A learned
    optimizer that does well on such a family may have learned no more than this.

    **Arguments:** `learning_rate`: $\alpha$, of either sign.

    **Cost:** two gradients of one player per step, counted as in `Alternating`.

    **Raises** `ValueError` for a problem that is not an `AbstractMinimax`, and for players whose leaves cannot be
    paired: both need the same structure and shapes.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Seesaw(1.0, 1.0)
    >>> solution = nx.solve(problem, nx.optimizers.SwappedGradient(0.1), num_steps=200, key=jax.random.key(0))
    >>> max(float(d) for d in problem.distances(solution.players)) < 1e-4
    True

    ```
    """

    learning_rate: Float[Array, ""] = eqx.field(converter=named(finite, "learning_rate"))

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> None:
        del key
        check_zero_sum(problem, "SwappedGradient", players)
        x, y = (jax.tree.map(lambda p: (p.shape, p.dtype), player) for player in players)
        if jax.tree.structure(players[0]) != jax.tree.structure(players[1]) or x != y:
            raise ValueError(
                "SwappedGradient adds one player's gradient to the other, so both players need leaves of the same "
                f"structure, shapes and dtypes; got {x} and {y}."
            )

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        x, y = players
        # the second player's own loss is -f, so that its gradient has the other sign
        losses, gradient = own_gradient(problem, (x, y), sample, 1)
        x = add_scaled(x, -self.learning_rate, gradient)
        _, gradient = own_gradient(problem, (x, y), sample, 0)
        y = add_scaled(y, self.learning_rate, gradient)
        return (x, y), state, StepInfo(losses, Cost(gradients=2))
