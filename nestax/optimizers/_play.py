"""Orders of play: all players at once, or one after the other."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gradients import evaluate_losses, joint_gradient
from .._optax import as_gradient_optimizer
from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, Cost, StepInfo, apply_updates
from .._problem import AbstractProblem, Players, Sample


def replace_player(players: Players, i: int, own: PyTree) -> Players:
    """`players` with `own` in place of player `i`."""
    return (*players[:i], own, *players[i + 1 :])


def own_gradient(
    problem: AbstractProblem, players: Players, sample: Sample, i: int
) -> tuple[Float[Array, " players"], PyTree]:
    r"""All losses, and the gradient of player `i` alone, $\partial_i L_i$: one forward and one reverse pass."""

    def own_loss(own):
        losses = evaluate_losses(problem, replace_player(players, i, own), sample)
        return losses[i], jnp.stack(losses)

    (_, losses), gradient = jax.value_and_grad(own_loss, has_aux=True)(players[i])
    return losses, gradient


def _as_optimizers(optimizers: Any) -> Any:
    """One optimizer for all players, or a tuple with one each. An Optax transformation is a tuple, too."""
    if isinstance(optimizers, optax.GradientTransformation) or not isinstance(optimizers, tuple | list):
        return as_gradient_optimizer(optimizers, "optimizers")
    return tuple(as_gradient_optimizer(x, f"optimizers[{i}]") for i, x in enumerate(optimizers))


class AbstractPlay(AbstractOptimizer):
    """One gradient optimizer per player, each with its own state. A subclass says when each gradient is evaluated."""

    optimizers: eqx.AbstractVar[AbstractGradientOptimizer | tuple[AbstractGradientOptimizer, ...]]

    def per_player(self, players: Players) -> tuple[AbstractGradientOptimizer, ...]:
        """One optimizer per player; `ValueError` if the numbers do not match."""
        if not isinstance(self.optimizers, tuple):
            return (self.optimizers,) * len(players)
        if len(self.optimizers) != len(players):
            raise ValueError(
                f"{type(self).__name__} has {len(self.optimizers)} optimizers, but the problem has {len(players)} "
                "players. Pass one optimizer per player, or a single one for all."
            )
        return self.optimizers

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        del problem, key
        return tuple(o.init_update(p) for o, p in zip(self.per_player(players), players))


def _move(optimizer, gradient, state, problem, players, sample, losses, i):
    """Player `i` after its update, and its optimizer's state."""

    def value_fn(own):
        return evaluate_losses(problem, replace_player(players, i, own), sample)[i]

    extra = {"value": losses[i], "grad": gradient, "value_fn": value_fn}
    updates, state = optimizer.update(gradient, state, players[i], **extra)
    return apply_updates(players[i], updates), state


class Simultaneous(AbstractPlay):
    r"""All players move at once, each with its own optimizer.

    $$\theta_i \leftarrow \theta_i + u_i(\partial_i L_i(\theta))$$

    **Arguments:**

    - `optimizers`: a tuple with one per player, or one for all. Each an `AbstractGradientOptimizer` or an Optax
      transformation. Line searches are given the player's own loss.

    A gradient optimizer on a game is simultaneous play already; this is for different optimizers, and for those that
    look at all coordinates together (clipping by the global norm), which here see one player each.

    **Raises** `ValueError` for a wrong number of optimizers, or one that needs more than a gradient.

    **Example**

    ```python
    >>> import nestax as nx
    >>> optimizer = nx.optimizers.Simultaneous((nx.optimizers.adam(1e-4), nx.optimizers.adam(4e-4)))

    ```
    """

    optimizers: AbstractGradientOptimizer | tuple[AbstractGradientOptimizer, ...] = eqx.field(converter=_as_optimizers)

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradients = joint_gradient(problem, players, sample)
        moved = [
            _move(optimizer, gradients[i], state[i], problem, players, sample, losses, i)
            for i, optimizer in enumerate(self.per_player(players))
        ]
        return tuple(m[0] for m in moved), tuple(m[1] for m in moved), StepInfo(losses)


class Alternating(AbstractPlay):
    r"""Players move in turn; each one's gradient is evaluated where the players before it have already moved.

    $\theta_i \leftarrow \theta_i + u_i(\partial_i L_i(\theta_1^+, \dots, \theta_{i-1}^+, \theta_i, \dots, \theta_n))$,
    all on the step's one sample. Only the moving player's gradient is computed.

    **Cost.** Every point at which a gradient is evaluated counts one in `StepInfo.cost.gradients`, so a step of $n$
    players counts $n$, as in Lorraine et al. (2022), although together these are about the work of one joint gradient
    ($n$ reverse passes). Comparisons per gradient therefore never flatter alternating play.

    **Arguments:**

    - `optimizers`: a tuple with one per player in the order of play, or one for all; see `Simultaneous`.

    **Raises** `ValueError` for a wrong number of optimizers, or one that needs more than a gradient.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> negative = nx.optimizers.momentum(0.05, decay=-0.5)  # converges on bilinear games in turns only
    >>> optimizer = nx.optimizers.Alternating(negative)

    ```
    """

    optimizers: AbstractGradientOptimizer | tuple[AbstractGradientOptimizer, ...] = eqx.field(converter=_as_optimizers)

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        at_start, new_state = None, []
        for i, optimizer in enumerate(self.per_player(players)):
            losses, gradient = own_gradient(problem, players, sample, i)
            at_start = losses if at_start is None else at_start
            own, own_state = _move(optimizer, gradient, state[i], problem, players, sample, losses, i)
            players = replace_player(players, i, own)
            new_state.append(own_state)
        assert at_start is not None  # there is a player
        return players, tuple(new_state), StepInfo(at_start, Cost(gradients=len(players)))
