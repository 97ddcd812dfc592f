"""Twin-L2O: two recurrent networks that play a zero-sum game, alternating."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import finite, named, one_of, optional, positive
from .._gradients import joint_gradient
from .._optimizer import Cost, StepInfo, apply_updates
from .._problem import AbstractProblem, Players, Sample, check_zero_sum
from .._tree import common_dtype, with_static
from ._base import AbstractLearnedOptimizer, unravel_like
from ._hyperparameters import to_float
from ._twin_network import TwinNetwork
from ._twin_rules import AbstractTwinRule, as_rule

Sharing = Literal["two-lstm-two-hidden", "two-lstm-share-hidden", "share-lstm-two-hidden", "share-lstm-share-hidden"]


class TwinState(eqx.Module):
    """State of a `TwinLSTM`.

    - `hidden`: the networks' recurrent state: one per player, or a single one where it is shared.
    - `memory`: per player the rule's memory of the past.
    - `half_steps`: moves of single players so far.
    """

    hidden: tuple[PyTree, ...]  # the players' arrays may differ in length
    memory: tuple[PyTree, PyTree]
    half_steps: Int[Array, ""]


class TwinLSTM(AbstractLearnedOptimizer):
    r"""Twin-L2O: two coordinatewise LSTMs, one per player, alternating, on a zero-sum game $\min_x \max_y f$.

    $$x_{t+1} = x_t + d^{\min}(\nabla_x f, \nabla_y f)(x_t, y_t), \qquad
    y_{t+1} = y_t + d^{\max}(\nabla_y f, \nabla_x f)(x_{t+1}, y_t)$$

    Each network is applied to every coordinate of its player alike, reads that coordinate's *own* gradient and the
    *other* player's, both as plain gradients of $f$ (no sign is turned), and has a recurrent state per coordinate. The
    second player sees the first one's new position. One step is one such pair of updates and counts two gradients.

    **Rules** (`rule`), with outputs $o$ of the network:

    - `"secant"` (default): eight features without units: both gradients divided by their size $r = \sqrt{g^2 + h^2}$;
      $\ln r / 5$ cut to $[-4, 1]$; the changes $\Delta g, \Delta h$ since the player's last move, as
      $\operatorname{asinh}(\Delta / r)$; the signs of $\Delta g\, d$ and $\Delta h\, d$, with $d$ its last update, from
      which the sign of the coupling is seen; $\ln(|\Delta h| / |d|) / 5$ cut to $[-2, 2]$. The update is in units of
      the gradients, $s\, e^{3 o_3} (o_1 g + o_2 h)$ with $s$ the `output_scale`, and bounded:
      $d = m \tanh(\cdot / m)$ with $m$ the `max_step`.
    - `"gradients"`: the published rule: features $(g, h)$, update $s\, o_1$.
    - `ReleasedRule(horizon)`: the published rule with the departures of the released code, among them a warm-up over a
      part of a run of `horizon` steps.

    **Which coordinates are paired:** the leaves of both players in order. Leaves of equal size are paired coordinate by
    coordinate; where the sizes differ (an $m \times n$ matrix game with $m \ne n$), every coordinate reads the root
    mean square of the other leaf's gradient instead. The publication defines $m = n$ only.

    **Arguments:**

    - `hidden_sizes`: units of each LSTM layer. Default (20, 20); published (50, 50), or (80, 80) for matrix games.
    - `rule`: as above: a name, or a rule object.
    - `sharing`: which of networks and recurrent states the players share: `"two-lstm-two-hidden"` (default),
      `"two-lstm-share-hidden"`, `"share-lstm-two-hidden"`, `"share-lstm-share-hidden"`. A shared state is handed from
      each move to the next one, of the other player, so it needs players of one dimension.
    - `output_scale`: $s$. Default 0.1 (with it an untrained network does not diverge); published 1.
    - `max_step`: $m$, in units of the players. Default 0.3; `None` for no bound, as published.
    - `second_derivatives`: differentiate the meta-loss through the networks' inputs, too. Default false, as
      published.
    - `key`: draws the initial weights, uniformly as PyTorch does.

    **Raises** `ValueError` for a problem that is not zero-sum, and for players whose leaves cannot be paired.

    **Cost:** a network with two layers of $H$ units and $F$ features takes $4H(F + H) + 8H^2 + H o$
    multiply-accumulates per coordinate and move, with $o$ outputs: 30,450 for the published one, twice that per step.
    (The publication's count of 3.86 million for 20 runs of 1,000 steps is 193 per step; the true one is 1,218 million.)

    **Source:** Shen, Chen, Heaton, Chen, Liu, Yin, Wang, "Learning a minimax optimizer: a pilot study", ICLR 2021,
    section 3 and eq. 2; the released code. **Deviation:** the secant rule and its defaults are ours. A released
    iteration is a single move, half of a step here. PyTorch's two bias vectors per layer are one.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.TwinLSTM(key=jax.random.key(0))  # not trained
    >>> game = nx.problems.BilinearGame(jax.numpy.eye(2))
    >>> solution = nx.solve(game, optimizer, num_steps=5, key=jax.random.key(1))
    >>> int(solution.info.cost.gradients.sum())
    10

    ```
    """

    networks: tuple[TwinNetwork, ...]
    output_scale: Float[Array, ""] = eqx.field(converter=named(finite, "output_scale"))
    max_step: Float[Array, ""] | None = eqx.field(converter=optional(named(positive, "max_step")))
    rule: AbstractTwinRule
    sharing: Sharing = eqx.field(static=True)
    second_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (20, 20),
        rule: str | Mapping[str, Any] | AbstractTwinRule = "secant",
        sharing: Sharing = "two-lstm-two-hidden",
        output_scale: float | Float[Array, ""] = 0.1,
        max_step: float | Float[Array, ""] | None = 0.3,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        self.rule = as_rule(rule)
        one_of(sharing, get_args(Sharing), "sharing")
        keys = jax.random.split(key, 1 if sharing.startswith("share-lstm") else 2)
        sizes = self.rule.num_features, tuple(hidden_sizes), self.rule.num_outputs
        self.networks = tuple(TwinNetwork(*sizes, key=k) for k in keys)
        self.sharing = sharing
        self.output_scale, self.max_step = output_scale, max_step
        self.second_derivatives = second_derivatives

    def meta_parameters(self) -> PyTree[bool]:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda o: o.networks, nothing, jax.tree.map(eqx.is_inexact_array, self.networks))

    def config(self) -> dict[str, Any]:
        return {
            "hidden_sizes": list(self.networks[0].hidden_sizes),
            "rule": self.rule.config(),
            "sharing": self.sharing,
            "output_scale": to_float(self.output_scale, "output_scale"),
            "max_step": None if self.max_step is None else to_float(self.max_step, "max_step"),
            "second_derivatives": self.second_derivatives,
        }

    def exact(self) -> "TwinLSTM":
        rule = with_static(self.rule, detach_iterates=False)
        return with_static(eqx.tree_at(lambda o: o.rule, self, rule, is_leaf=_is_rule), second_derivatives=True)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> TwinState:
        check_zero_sum(problem, type(self).__name__, players)
        dtype = common_dtype(players, jnp.float32)
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(player)) for player in players]
        paired(players, 0, dtype)  # raises where leaves cannot be paired
        if self.sharing.endswith("share-hidden") and sizes[0] != sizes[1]:
            raise ValueError(
                f"`sharing={self.sharing!r}` hands the recurrent state from one player to the other, so both need the "
                f"same number of coordinates, got {sizes[0]} and {sizes[1]}. Use '...-two-hidden'."
            )
        num = 1 if self.sharing.endswith("share-hidden") else 2
        hidden = tuple(self.networks[0].init_state(n, dtype) for n in sizes[:num])
        memory = (self.rule.init(sizes[0], dtype), self.rule.init(sizes[1], dtype))
        return TwinState(self.rule.start(hidden, key), memory, jnp.array(0))

    def step(
        self, problem: AbstractProblem, players: Players, state: TwinState, samples: Sample
    ) -> tuple[Players, TwinState, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        check_zero_sum(problem, type(self).__name__, players)
        players = jax.lax.stop_gradient(players) if self.rule.detach_iterates else players
        losses = None
        for i in (0, 1):
            values, gradients = payoff_gradients(problem, players, sample)
            losses = values if losses is None else losses
            gradients = gradients if self.second_derivatives else jax.lax.stop_gradient(gradients)
            own, other = paired(gradients, i, common_dtype(players, jnp.float32))
            displacement, state = self._move(i, own, other, state)
            moved = apply_updates(players[i], unravel_like(displacement, players[i]))
            players = (moved, players[1]) if i == 0 else (players[0], moved)
        return players, state, StepInfo(losses, Cost(gradients=2))

    def _move(self, i: int, own, other, state: TwinState):
        """The update of player `i`, and the state after it."""
        rule, dtype = self.rule, own.dtype
        network = jax.tree.map(
            lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, self.networks[i % len(self.networks)]
        )
        slot = i % len(state.hidden)
        outputs, hidden = network(rule.features(own, other, state.memory[i]), rule.recall(state.hidden[slot]))
        displacement = self.output_scale.astype(dtype) * rule.direction(outputs, own, other)
        if self.max_step is not None:
            bound = self.max_step.astype(dtype)
            displacement = bound * jnp.tanh(displacement / bound)
        displacement = rule.finish(displacement, state.half_steps)
        moved = displacement if self.second_derivatives else jax.lax.stop_gradient(displacement)
        memory = rule.remember(own, other, moved)
        return displacement, TwinState(
            _put(state.hidden, slot, hidden), _put(state.memory, i, memory), state.half_steps + 1
        )


def _is_rule(x: Any) -> bool:
    return isinstance(x, AbstractTwinRule)


def _put(items: tuple, index: int, item: Any) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


def payoff_gradients(
    problem: AbstractProblem, players: Players, sample: Sample
) -> tuple[Float[Array, " players"], tuple[PyTree, PyTree]]:
    r"""The losses, and the payoff's gradients $(\nabla_x f, \nabla_y f)$, without the sign of the second player."""
    losses, (x, y) = joint_gradient(problem, players, sample)
    return losses, (x, jax.tree.map(jnp.negative, y))


def paired(gradients: PyTree, i: int, dtype: Any) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The gradient of player `i` as a vector, and beside it what each of its coordinates sees of the other player."""
    own, other = jax.tree.leaves(gradients[i]), jax.tree.leaves(gradients[1 - i])
    if len(own) != len(other):
        raise ValueError(
            "The leaves of both players must be paired, one to one in order, but the players have "
            f"{len(jax.tree.leaves(gradients[0]))} and {len(jax.tree.leaves(gradients[1]))} leaves. Ravel each player "
            "into one array (`jax.flatten_util.ravel_pytree`): single leaves may differ in size."
        )
    own, other = [x.astype(dtype).ravel() for x in own], [x.astype(dtype).ravel() for x in other]
    seen = [h if h.size == g.size else jnp.full_like(g, _root_mean_square(h)) for g, h in zip(own, other)]
    return jnp.concatenate(own), jnp.concatenate(seen)


def _root_mean_square(x: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(x**2))
