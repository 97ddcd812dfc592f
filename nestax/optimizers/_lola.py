"""Players who anticipate the others' next step: LOLA in three variants, and LookAhead."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import named, nonnegative
from .._gradients import evaluate_losses
from .._optimizer import AbstractGradientOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._tree import add_scaled, dot, upcast_dtype
from ._adjusted import AbstractAdjustedGradient, as_base
from ._play import own_gradient, replace_player


class AbstractAnticipation(AbstractAdjustedGradient):
    r"""Each player descends on its own loss after an assumed step of $-\eta\, \partial_j L_j$ by every other player.

    A subclass says what that loss is, and thereby which terms are differentiated. All players move at once. A step of
    two players counts 4 gradients: the players' own, those of the others' losses, and one product of the game Jacobian;
    in general $1 + 3 (n - 1)$.
    """

    opponent_rate: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def anticipated_loss(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> Float[Array, ""]:
        """The loss on which player `i` descends. Its gradient with respect to `players[i]` is taken."""

    def adjusted_gradient(self, problem: AbstractProblem, players: Players, sample: Sample):
        def gradient(i):
            def loss(own):
                return self.anticipated_loss(problem, replace_player(players, i, own), sample, i)

            return jax.grad(loss)(players[i])

        losses = jnp.stack(evaluate_losses(problem, players, sample))
        num = len(players)
        return losses, tuple(gradient(i) for i in range(num)), 1 + 3 * (num - 1)

    def expanded_loss(
        self, problem: AbstractProblem, players: Players, sample: Sample, i: int, hold_effect: bool, hold_step: bool
    ) -> Float[Array, ""]:
        r"""$L_i - \eta \sum_{j \ne i} (\partial_j L_i)^\top \partial_j L_j$; either factor may be held constant."""

        def loss_of(others):
            merged = tuple(players[i] if j == i else others[j] for j in range(len(players)))
            return evaluate_losses(problem, merged, sample)[i]

        loss, effects = jax.value_and_grad(loss_of)(players)  # where the others' moves take this player's loss
        for j in range(len(players)):
            if j != i:
                effect, step = effects[j], own_gradient(problem, players, sample, j)[1]
                effect = jax.lax.stop_gradient(effect) if hold_effect else effect
                step = jax.lax.stop_gradient(step) if hold_step else step
                product = dot(effect, step)
                loss = loss.astype(upcast_dtype(loss.dtype))
                loss = loss - (self.opponent_rate.astype(product.dtype) * product).astype(loss.dtype)
        return loss


class LOLA(AbstractAnticipation):
    r"""Learning with opponent-learning awareness (LOLA), the original first-order form: the shaping term.

    $$\tilde g_i = \partial_i L_i - \eta \sum_{j \ne i} (\partial_i \partial_j L_j)^\top\, \partial_j L_i$$

    Player $i$ takes into account how its own move changes the others' next step, to first order in $\eta$. In the
    iterated prisoner's dilemma it finds tit for tat where gradient descent defects. Stop-gradient on $\partial_j L_i$
    in $L_i - \eta \sum_j (\partial_j L_i)^\top \partial_j L_j$ gives this rule; on $\partial_j L_j$ it gives
    `LookAhead`; none gives `TaylorLOLA`, whose gradient is that of both minus the plain one.

    **Arguments:**

    - `optimizer`: a learning rate, for gradient descent, or any gradient optimizer.
    - `opponent_rate`: $\eta$, the step that the others are assumed to take.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.LOLA(1.0, opponent_rate=10.0)

    ```

    **Source:** Foerster et al., "Learning with opponent-learning awareness" (AAMAS 2018), section 4; for $n$ players
    Letcher et al., "Stable opponent shaping in differentiable games" (ICLR 2019).
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    opponent_rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "opponent_rate"))

    def anticipated_loss(self, problem, players, sample, i):
        return self.expanded_loss(problem, players, sample, i, hold_effect=True, hold_step=False)


class LookAhead(AbstractAnticipation):
    r"""LookAhead: the loss after the others' next step, which is taken as given.

    $$\tilde g_i = \partial_i L_i - \eta \sum_{j \ne i} (\partial_i \partial_j L_i)^\top\, \partial_j L_j$$

    to first order in $\eta$; that is the joint gradient plus $-\eta J_o g$, where $J_o$ is the game Jacobian without
    its diagonal blocks. It converges to stable fixed points like extragradient, and does not shape the others.

    **Arguments:** as for `LOLA`.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.LookAhead(0.1, opponent_rate=0.1)

    ```

    **Source:** Zhang and Lesser, "Multi-agent learning with policy prediction" (AAAI 2010); the name and the form for
    $n$ players are those of Letcher et al. (ICLR 2019).
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    opponent_rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "opponent_rate"))

    def anticipated_loss(self, problem, players, sample, i):
        return self.expanded_loss(problem, players, sample, i, hold_effect=False, hold_step=True)


class TaylorLOLA(AbstractAnticipation):
    r"""LOLA with the whole first-order expansion differentiated: the shaping term of `LOLA` and that of `LookAhead`.

    $$\tilde g_i = \partial_i \Bigl( L_i - \eta \sum_{j \ne i} (\partial_j L_i)^\top \partial_j L_j \Bigr)$$

    **Arguments:** as for `LOLA`.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.TaylorLOLA(1.0, opponent_rate=10.0)

    ```

    **Source:** Foerster et al. (AAMAS 2018), of which their rule drops a term; Letcher et al. (ICLR 2019).
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    opponent_rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "opponent_rate"))

    def anticipated_loss(self, problem, players, sample, i):
        return self.expanded_loss(problem, players, sample, i, hold_effect=False, hold_step=False)


class ExactLOLA(AbstractAnticipation):
    r"""LOLA without the expansion: differentiates through the others' assumed step itself.

    $$\tilde g_i = \frac{d}{d\theta_i} L_i\bigl(\theta_i,\; \theta_j - \eta\, \partial_j L_j(\theta)
    \text{ for all } j \ne i\bigr)$$

    **Arguments:** as for `LOLA`.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.ExactLOLA(1.0, opponent_rate=10.0)

    ```

    **Source:** Foerster et al. (AAMAS 2018), as in the authors' program for exact games.
    """

    optimizer: AbstractGradientOptimizer = eqx.field(converter=as_base)
    opponent_rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "opponent_rate"))

    def anticipated_loss(self, problem, players, sample, i):
        ahead = tuple(
            own if j == i else add_scaled(own, -self.opponent_rate, own_gradient(problem, players, sample, j)[1])
            for j, own in enumerate(players)
        )
        return evaluate_losses(problem, ahead, sample)[i]
