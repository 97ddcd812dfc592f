"""Players who anticipate the others' next step: LOLA in three variants, and LookAhead."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import named, nonnegative
from .._gradients import evaluate_losses
from .._optimizer import AbstractGradientOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._tree import add_scaled
from ._adjusted import AbstractAdjustedGradient, as_base
from ._play import own_gradient, replace_player


class AbstractAnticipation(AbstractAdjustedGradient):
    r"""Each player descends on its own loss after an assumed step of $-\eta\, \partial_j L_j$ by every other player.

    A subclass says which terms of that are kept. All players move at once. A step of two players counts 4 gradients:
    the players' own, those of the others' losses, and one product of the game Jacobian; in general $1 + 3 (n - 1)$.
    """

    opponent_rate: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def anticipating_gradient(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
        """The direction against which player `i` moves, with the structure of `players[i]`."""

    def adjusted_gradient(self, problem: AbstractProblem, players: Players, sample: Sample):
        losses = jnp.stack(evaluate_losses(problem, players, sample))
        gradients = tuple(self.anticipating_gradient(problem, players, sample, i) for i in range(len(players)))
        return losses, gradients, 1 + 3 * (len(players) - 1)


# The terms of the expansion as products of Jacobians, with every factor a function of the players: so they can be
# differentiated again, which a factor that is held constant in the gradient of an expanded loss could not.


def _own(problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
    return own_gradient(problem, players, sample, i)[1]


def _others(players: Players, i: int) -> list[int]:
    return [j for j in range(len(players)) if j != i]


def _shaping(problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
    r"""$\sum_{j \ne i} (\partial_i \partial_j L_j)^\top\, \partial_j L_i$: the effect on the others' steps."""
    others = _others(players, i)
    if not others:
        return jax.tree.map(jnp.zeros_like, players[i])

    def steps(own):
        moved = replace_player(players, i, own)
        return tuple(_own(problem, moved, sample, j) for j in others)

    effects = jax.grad(lambda p: evaluate_losses(problem, p, sample)[i])(players)
    return jax.vjp(steps, players[i])[1](tuple(effects[j] for j in others))[0]


def _yielding(problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
    r"""$\sum_{j \ne i} (\partial_i \partial_j L_i)^\top\, \partial_j L_j$: the effect of the others' steps."""
    others = _others(players, i)
    if not others:
        return jax.tree.map(jnp.zeros_like, players[i])

    def gradient(theirs):
        moved = players
        for j, player in zip(others, theirs):
            moved = replace_player(moved, j, player)
        return _own(problem, moved, sample, i)

    at = tuple(players[j] for j in others)
    return jax.jvp(gradient, (at,), (tuple(_own(problem, players, sample, j) for j in others),))[1]


class LOLA(AbstractAnticipation):
    r"""Learning with opponent-learning awareness (LOLA), the original first-order form: the shaping term.

    $$\tilde g_i = \partial_i L_i - \eta \sum_{j \ne i} (\partial_i \partial_j L_j)^\top\, \partial_j L_i$$

    Player $i$ takes into account how its own move changes the others' next step, to first order in $\eta$. In the
    iterated prisoner's dilemma it finds tit for tat where gradient descent defects. In the gradient of
    $L_i - \eta \sum_j (\partial_j L_i)^\top \partial_j L_j$ this rule holds $\partial_j L_i$ constant, `LookAhead`
    holds $\partial_j L_j$ constant, and `TaylorLOLA` neither.

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

    def anticipating_gradient(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
        shaping = _shaping(problem, players, sample, i)
        return add_scaled(_own(problem, players, sample, i), -self.opponent_rate, shaping)


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

    def anticipating_gradient(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
        yielding = _yielding(problem, players, sample, i)
        return add_scaled(_own(problem, players, sample, i), -self.opponent_rate, yielding)


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

    def anticipating_gradient(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
        terms = (_shaping(problem, players, sample, i), _yielding(problem, players, sample, i))
        terms = jax.tree.map(jnp.add, *terms)
        return add_scaled(_own(problem, players, sample, i), -self.opponent_rate, terms)


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

    def anticipating_gradient(self, problem: AbstractProblem, players: Players, sample: Sample, i: int) -> PyTree:
        def loss(own):
            moved = replace_player(players, i, own)
            ahead = tuple(
                player if j == i else add_scaled(player, -self.opponent_rate, _own(problem, moved, sample, j))
                for j, player in enumerate(moved)
            )
            return evaluate_losses(problem, ahead, sample)[i]

        return jax.grad(loss)(players[i])
