"""Matrix games that are played again and again by players who remember the last round; the losses in closed form."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_finite, decay, fraction, one_of
from .._problem import AbstractDeterministicProblem, AbstractMinimax
from .._tree import as_float_array, default_float

View = Literal["own", "shared"]

DILEMMA = np.array([[[1.0, 3.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 2.0]]])
"""The losses of both players in the prisoner's dilemma; actions are cooperate, defect; rows are the first player's."""


class IteratedMatrixGame(AbstractDeterministicProblem):
    r"""Two players meet in a matrix game again and again, and remember the last round (memory 1).

    In round 0 and after each of the $R \cdot C$ possible rounds a player draws an action from its own distribution.
    With the distribution $P_0$ of the first round, the transition matrix $P$ between rounds, and the losses $\ell_i$ of
    a round, the discounted loss per round is

    $$L_i = (1 - \gamma)\, P_0^\top (I - \gamma P)^{-1} \ell_i.$$

    The factor $1 - \gamma$ makes it an average: playing the same round forever costs what the round costs.

    Players are two vectors of logits, of shape `((1 + R * C) * (A - 1),)` for a player with $A$ actions: for each state
    the logits of all actions but the last, whose logit is 0, so that no direction is without effect. With two actions
    that is one logit per state: the log-odds of the first action. States are: the start, then the last rounds in
    lexicographic order. `init` draws all logits from $N(0, s^2)$.

    **Arguments:**

    - `first`, `second`: $\ell_1, \ell_2$: both of shape `(R, C)`, rows are the actions of the first player.
    - `discount`: $\gamma \in [0, 1)$. Default 0.96.
    - `view`: how the *second* player orders the last rounds. `"own"` (default): its own action first, as every player
      would write it; then the same vector is the same strategy for both, and in a symmetric game $L_1(a, b) = L_2(b,
      a)$. `"shared"`: as the first player does, whose action comes first. For two actions the two conventions differ by
      swapping the entries CD and DC; a mix of both is a frequent mistake.
    - `init_scale`: $s$. Default 1.

    **Raises** `ValueError` for other shapes, NaN or infinite losses, and a discount outside [0, 1).

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> game = nx.problems.iterated_prisoners_dilemma()
    >>> defect, tit_for_tat = jnp.full(5, -9.0), jnp.array([9.0, 9.0, -9.0, 9.0, -9.0])
    >>> for pair in ((defect, defect), (tit_for_tat, tit_for_tat)):
    ...     print(*(f"{loss:.2f}" for loss in game.losses(pair, None)))
    2.00 2.00
    1.00 1.00

    ```

    **Source:** J. Foerster et al., *Learning with opponent-learning awareness*, AAMAS 2018, for two actions.
    """

    first: Float[Array, "rows columns"]
    second: Float[Array, "rows columns"]
    discount: Float[Array, ""]
    init_scale: Float[Array, ""]
    view: View = eqx.field(static=True)

    def __init__(
        self,
        first: ArrayLike,
        second: ArrayLike,
        discount: ArrayLike = 0.96,
        *,
        view: View = "own",
        init_scale: ArrayLike = 1.0,
    ):
        self.first, self.second = as_float_array(first), as_float_array(second)
        shape = self.first.shape
        if self.first.ndim != 2 or self.second.shape != shape or min(shape) < 2:
            raise ValueError(
                "`first` and `second` must be matrices of one shape (rows, columns) with at least two of each, got "
                f"{shape} and {self.second.shape}."
            )
        check_finite(self.first, "first")
        check_finite(self.second, "second")
        self.discount = decay(discount, "discount")
        self.init_scale = as_float_array(init_scale)
        self.view = one_of(view, ("own", "shared"), "view")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " first_dim"], Float[Array, " second_dim"]]:
        rows, columns = self.first.shape
        keys = jax.random.split(key)
        states = 1 + rows * columns
        return tuple(
            self.init_scale * jax.random.normal(k, (states * (num - 1),), self.init_scale.dtype)
            for k, num in zip(keys, (rows, columns))
        )  # pyright: ignore[reportReturnType]

    def policies(
        self, players: tuple[Float[Array, " first_dim"], Float[Array, " second_dim"]]
    ) -> tuple[Float[Array, "states rows"], Float[Array, "states columns"]]:
        """The probability of each action in each state, with the states in the order in which the player holds them."""
        rows, columns = self.first.shape
        return _softmax(players[0], rows), _softmax(players[1], columns)

    def losses(
        self, players: tuple[Float[Array, " first_dim"], Float[Array, " second_dim"]], sample: None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        del sample
        rows, columns = self.first.shape
        p, q = self.policies(players)
        if self.view == "own":  # now as the first player sees it
            swapped = jnp.swapaxes(q[1:].reshape(columns, rows, columns), 0, 1).reshape(rows * columns, columns)
            q = jnp.concatenate([q[:1], swapped])
        joint = (p[:, :, None] * q[:, None, :]).reshape(-1, rows * columns)
        visits = discounted_visits(joint[0], joint[1:], self.discount.astype(joint.dtype))
        return tuple(visits @ x.reshape(-1).astype(visits.dtype) for x in (self.first, self.second))  # pyright: ignore[reportReturnType]


def iterated_prisoners_dilemma(
    discount: ArrayLike = 0.96, *, view: View = "own", init_scale: ArrayLike = 1.0
) -> IteratedMatrixGame:
    """The iterated prisoner's dilemma: 5 logits per player, to cooperate at the start and after CC, CD, DC, DD.

    Losses per round are 1 for mutual cooperation, 2 for mutual defection, 0 for defecting on a cooperator, who pays 3.
    Gradient descent ends in mutual defection; tit for tat against itself cooperates. Arguments as of
    `IteratedMatrixGame`.
    """
    first, second = jnp.asarray(DILEMMA, default_float())
    return IteratedMatrixGame(first, second, discount, view=view, init_scale=init_scale)


class SmallPrisonersDilemma(AbstractDeterministicProblem):
    r"""The iterated prisoner's dilemma with one logit per player: the plane in which its modes can be drawn.

    A player cooperates with probability $\operatorname{sigmoid}(\theta_i)$ at the start and after the other has
    cooperated, and with probability `low` after the other has defected: between always defecting ($\theta \to -\infty$)
    and tit for tat ($\theta \to \infty$). Both modes attract gradient descent, and a saddle lies between them.

    Players are two scalars; `init` draws both from $N(0, 1)$.

    **Arguments:**

    - `low`: default 0.01; the source says "defect with high probability".
    - `discount`: default 0.96.

    **Raises** `ValueError` for a `low` outside [0, 1] and a discount outside [0, 1).

    **Source:** J. Lorraine et al., *Lyapunov exponents for diversity in differentiable games*, AAMAS 2022.
    """

    low: Float[Array, ""]
    discount: Float[Array, ""]

    def __init__(self, low: ArrayLike = 0.01, discount: ArrayLike = 0.96):
        self.low, self.discount = fraction(low, "low"), decay(discount, "discount")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return tuple(jax.random.normal(key, (2,), self.low.dtype))  # pyright: ignore[reportReturnType]

    def losses(
        self, players: tuple[Float[Array, ""], Float[Array, ""]], sample: None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        del sample
        low = self.low.astype(players[0].dtype)
        p, q = (jnp.where(jnp.array([1, 1, 0, 1, 0], bool), jax.nn.sigmoid(x), low) for x in players)
        q = q[jnp.array([0, 1, 3, 2, 4])]  # the other's own view
        joint = jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=-1)
        visits = discounted_visits(joint[0], joint[1:], self.discount.astype(joint.dtype))
        return tuple(visits @ jnp.asarray(x, visits.dtype).reshape(-1) for x in DILEMMA)  # pyright: ignore[reportReturnType]


class MatchingPennies(AbstractMinimax, AbstractDeterministicProblem):
    r"""Matching pennies: $f = (1 - 2p)(1 - 2q)$ for the probabilities $p, q = \operatorname{sigmoid}$ of two logits.

    The first player loses where both pennies show the same side. Iterating the game changes nothing. The solution is
    the origin, where the game Jacobian has the eigenvalues $\pm i / 4$. Players are two scalars, drawn from $N(0, 1)$.
    """

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return tuple(jax.random.normal(key, (2,), default_float()))  # pyright: ignore[reportReturnType]

    def payoff(self, players: tuple[Float[Array, ""], Float[Array, ""]], sample: None) -> Float[Array, ""]:
        del sample
        p, q = (jax.nn.sigmoid(x) for x in players)
        return (1 - 2 * p) * (1 - 2 * q)

    def solution(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The equilibrium: both sides equally likely."""
        return jnp.zeros(()), jnp.zeros(())


def discounted_visits(
    start: Float[Array, " states"], transitions: Float[Array, "states states"], discount: Float[Array, ""]
) -> Float[Array, " states"]:
    r"""$(1 - \gamma) (I - \gamma P^\top)^{-1} P_0$: how often each state of a Markov chain is visited, discounted."""
    identity = jnp.eye(len(start), dtype=start.dtype)
    return (1 - discount) * jnp.linalg.solve(identity - discount * transitions.T, start)


def _softmax(logits: Float[Array, " dim"], num_actions: int) -> Float[Array, "states actions"]:
    free = logits.reshape(-1, num_actions - 1)
    return jax.nn.softmax(jnp.concatenate([free, jnp.zeros_like(free[:, :1])], axis=1), axis=1)
