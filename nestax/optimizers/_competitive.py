"""Competitive gradient descent: each step is the Nash equilibrium of a local bilinear game."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count, named, nonnegative, positive
from .._gradients import joint_gradient
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._tree import add_scaled, upcast
from ._linear import solve_normal
from ._play import own_gradient, replace_player


class CompetitiveGradientDescent(AbstractOptimizer):
    r"""Competitive gradient descent (CGD): the update $u$ that solves

    $$(I + \eta J_o)\, u = -\eta\, g, \qquad J_o = \begin{pmatrix} 0 & \partial_y \partial_x L_1 \\
    \partial_x \partial_y L_2 & 0 \end{pmatrix},$$

    with the joint gradient $g$ and the game Jacobian without its diagonal blocks: the Nash equilibrium of the game's
    bilinear approximation with a quadratic cost of moving. Converges on bilinear games for every $\eta$, with the
    rate $(1 + \eta^2 \sigma^2)^{-1/2}$ for a singular value $\sigma$. General-sum, and for any number of players (the
    polymatrix form); for two players elimination of the second gives the source's formula
    $u_x = -\eta (I - \eta^2 \partial_{xy} L_1\, \partial_{yx} L_2)^{-1} (\partial_x L_1 - \eta\, \partial_{xy} L_1\,
    \partial_y L_2)$.

    The system is solved without matrices, by conjugate gradients on the normal equations, which for a zero-sum game has
    the spectrum that the source's elimination has. In float32 at least. `StepInfo.cost.gradients` counts each product
    as two gradients: $3 + 4 k$ for $k$ iterations, and `StepInfo.aux` is $k$.

    **Arguments:**

    - `learning_rate`: $\eta$.
    - `tolerance`: relative residual at which the solve stops. Default $10^{-6}$, which float32 reaches.
    - `max_steps`: iterations at most. Default 100. A solve that stops there is used as it is.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.CompetitiveGradientDescent(0.2)

    ```

    **Source:** Schäfer and Anandkumar, "Competitive gradient descent" (NeurIPS 2019), Algorithm 1; for more players Ma,
    Letcher, Schäfer, Shi and Anandkumar, "Polymatrix competitive gradient descent" (2021).
    """

    learning_rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "learning_rate"))
    tolerance: Float[Array, ""] = eqx.field(converter=named(positive, "tolerance"), default=1e-6)
    max_steps: int = eqx.field(static=True, converter=named(count, "max_steps"), default=100)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> None:
        del problem, players, key

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradient = joint_gradient(problem, players, sample)
        dtypes = jax.tree.map(lambda x: x.dtype, players)

        def interaction(others: Players) -> Players:
            """Each player's own gradient as a function of the others alone: its Jacobian is `J_o`."""
            others = jax.tree.map(lambda x, dtype: x.astype(dtype), others, dtypes)
            return upcast(
                tuple(
                    own_gradient(problem, replace_player(others, i, players[i]), sample, i)[1]
                    for i in range(len(players))
                )
            )

        start = upcast(players)
        _, forward = jax.linearize(interaction, start)
        _, pullback = jax.vjp(interaction, start)
        rate = self.learning_rate
        update, num_steps = solve_normal(
            lambda u: add_scaled(u, rate, forward(u)),
            lambda u: add_scaled(u, rate, pullback(u)[0]),
            upcast(gradient),
            self.tolerance,
            self.max_steps,
        )
        info = StepInfo(losses, Cost(gradients=3 + 4 * num_steps), aux=num_steps)
        return add_scaled(players, -rate, update), state, info
