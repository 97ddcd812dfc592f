"""A learned optimizer of games with many coordinates: two small networks steer a truncated Krylov method."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import named, positive
from .._gradients import joint_gradient
from .._optimizer import StepInfo, apply_updates
from .._problem import AbstractProblem, Players, Sample, check_zero_sum
from .._tree import common_dtype, with_static
from ._base import AbstractLearnedOptimizer, unravel_like
from ._hyperparameters import to_float
from ._twin_network import TwinNetwork

_NUM_FEATURES, _NUM_OUTPUTS = 10, 3


class TwinKrylovState(eqx.Module):
    """State of a `TwinKrylov`.

    - `moves`, `changes`: shape `(memory, n)`: combinations of past moves, and the changes of the joint gradient that
      they made, orthonormal.
    - `latest`: the newest row of `changes`.
    - `players`, `gradient`: the last point, raveled, and the joint gradient there.
    - `slope`: the largest ratio of a change to its move so far; 0 at the start.
    - `hidden`: per player the network's recurrent state.
    - `count`, `learned`: steps so far, and rows written so far.
    """

    moves: Float[Array, "memory n"]
    changes: Float[Array, "memory n"]
    latest: Float[Array, " n"]
    players: Float[Array, " n"]
    gradient: Float[Array, " n"]
    slope: Float[Array, ""]
    hidden: tuple[PyTree, ...]  # the players' arrays may differ in length
    count: Int[Array, ""]
    learned: Int[Array, ""]


class TwinKrylov(AbstractLearnedOptimizer):
    r"""Two networks, one per player, that steer a truncated Krylov method on the joint gradient of a zero-sum game.

    From the last $k$ steps it keeps moves $p_j$ and the changes $q_j$ of the joint gradient $F$ that they made,
    orthonormalized ($q_i^\top q_j = \delta_{ij}$). With $u = (x, y)$, one joint gradient per step:

    $$u \leftarrow u - \sum_j p_j (q_j^\top F) - \frac1L e^{o_3} \bigl[(\tfrac12 + o_1)\, r + (\tfrac12 + o_2)\, \lVert
    r \rVert\, q\bigr], \qquad r = F - \sum_j q_j (q_j^\top F)$$

    The first part goes to where, as far as the past moves tell, $F$ is smallest (a multisecant step: the generalized
    conjugate residual method, truncated). The second explores: along what is left of the gradient, $r$, and along the
    newest change $q$, with $L$ the largest slope seen; on a bilinear game the residual alone would only repeat the last
    move, and $q$ is the direction that a Krylov space grows by. $o$ are the outputs of the players' networks, one
    triple for all coordinates of a player, so a step does not depend on the choice of (orthonormal) coordinates, nor on
    the units of the payoff after the first step. The read-out starts at zero: untrained, it is the method with $o = 0$.

    On a quadratic game whose joint gradient is linear in $n$ coordinates, $k \ge n$ ends at the solution after about
    $n$ steps, whatever $o$; what there is to learn is which directions make a short memory do.

    **Inputs** of each network, with norms over all or over the player's own coordinates: $\ln(|r| / |F|)$, the change
    of $\ln |F|$, the own shares of $r$, $F$ and $q$, their cosine $(r, q)$, the cosine of the last move with its
    change, for all and for the own coordinates (0 where the players only interact), the logarithm of the last slope
    over $L$, and how full the memory is.

    **Arguments:**

    - `hidden_sizes`: units of each LSTM layer. Default (16,).
    - `memory`: $k$. Default 40: 80 numbers per coordinate, as many as the states of two LSTM layers of 20.
    - `first_step`: the first move is minus this times the gradient. Default 0.1, in units of players over gradient.
    - `max_first_step`: but its length is at most this, in units of the players. Default 0.1.
    - `second_derivatives`: differentiate the meta-loss through the networks' inputs, too. Default false, as in
      `TwinLSTM`.
    - `key`: draws the initial weights, uniformly as PyTorch does, except the read-out.

    The meta-gradient is always differentiated through the gradients that make the moves: a direction pays only by what
    is learned from it.

    **Raises** `ValueError` for a problem that is not zero-sum, and for a `memory` below 1.

    **Source:** the method around which the networks are put: Eisenstat, Elman and Schultz, "Variational iterative
    methods for nonsymmetric systems of linear equations", 1983 (ORTHOMIN); the two networks: Shen et al., ICLR 2021.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> game = nx.problems.BilinearGame.random(jax.random.key(0), entries=(-8.0, 8.0), density=1.0)
    >>> optimizer = nx.learned.TwinKrylov(key=jax.random.key(1))  # not trained
    >>> solution = nx.solve(game, optimizer, num_steps=30, key=jax.random.key(2))
    >>> all(bool(d < 1e-3) for d in game.distances(solution.players))
    True

    ```
    """

    networks: tuple[TwinNetwork, TwinNetwork]
    first_step: Float[Array, ""] = eqx.field(converter=named(positive, "first_step"))
    max_first_step: Float[Array, ""] = eqx.field(converter=named(positive, "max_first_step"))
    memory: int = eqx.field(static=True)
    second_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (16,),
        memory: int = 40,
        first_step: float | Float[Array, ""] = 0.1,
        max_first_step: float | Float[Array, ""] = 0.1,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        if memory < 1:
            raise ValueError(f"`memory` must be at least 1, got {memory}.")
        networks = [TwinNetwork(_NUM_FEATURES, tuple(hidden_sizes), _NUM_OUTPUTS, key=k) for k in jax.random.split(key)]
        first, second = (
            eqx.tree_at(lambda n: (n.readout_weight, n.readout_bias), n, replace_fn=jnp.zeros_like) for n in networks
        )
        self.networks = (first, second)
        self.memory = memory
        self.first_step, self.max_first_step = first_step, max_first_step
        self.second_derivatives = second_derivatives

    def meta_parameters(self) -> PyTree[bool]:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda o: o.networks, nothing, jax.tree.map(eqx.is_inexact_array, self.networks))

    def config(self) -> dict[str, Any]:
        return {
            "hidden_sizes": list(self.networks[0].hidden_sizes),
            "memory": self.memory,
            "first_step": to_float(self.first_step, "first_step"),
            "max_first_step": to_float(self.max_first_step, "max_first_step"),
            "second_derivatives": self.second_derivatives,
        }

    def exact(self) -> "TwinKrylov":
        return with_static(self, second_derivatives=True)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> TwinKrylovState:
        del key
        check_zero_sum(problem, type(self).__name__, players)
        zeros = jnp.zeros_like(_ravel(players, common_dtype(players, jnp.float32)))
        rows = jnp.zeros((self.memory, zeros.size), zeros.dtype)
        first, second = (network.init_state(1, zeros.dtype) for network in self.networks)
        slope = jnp.zeros((), zeros.dtype)
        return TwinKrylovState(rows, rows, zeros, zeros, zeros, slope, (first, second), jnp.array(0), jnp.array(0))

    def step(
        self, problem: AbstractProblem, players: Players, state: TwinKrylovState, samples: Sample
    ) -> tuple[Players, TwinKrylovState, StepInfo]:
        check_zero_sum(problem, type(self).__name__, players)
        losses, field = joint_gradient(problem, players, jax.tree.map(lambda x: x[0], samples))
        dtype = common_dtype(players, jnp.float32)
        point, gradient = _ravel(players, dtype), _ravel(field, dtype)
        split = sum(x.size for x in jax.tree.leaves(players[0]))
        moves, changes, latest, slope, last_slope, learned = self._learn_from_move(point, gradient, state)

        known = changes @ gradient
        rest = gradient - known @ changes
        length = _norm(rest)
        seen = (point - state.players, gradient - state.gradient, slope, last_slope)
        features = _features(gradient, rest, latest, seen, state, split, self.memory)
        outputs, hidden = [], []
        for network, column, own in zip(self.networks, features, state.hidden):
            network = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)
            column = column if self.second_derivatives else jax.lax.stop_gradient(column)
            output, own = network(column[:, None], own)
            outputs.append(output[:, 0])
            hidden.append(own)
        along_rest, along_change, scale = (_per_coordinate(outputs, k, split, gradient) for k in range(_NUM_OUTPUTS))
        explore = jnp.exp(scale) * ((0.5 + along_rest) * rest + (0.5 + along_change) * length * latest)
        later = -(known @ moves) - explore / jnp.where(slope > 0, slope, jnp.ones_like(slope))
        displacement = jnp.where(state.count == 0, self._first_move(gradient), later)

        updates = unravel_like(displacement, players)
        new = TwinKrylovState(
            moves, changes, latest, point, gradient, slope, (hidden[0], hidden[1]), state.count + 1, learned
        )
        return apply_updates(players, updates), new, StepInfo(losses)

    def _first_move(self, gradient: Float[Array, " n"]) -> Float[Array, " n"]:
        size = _norm(gradient)
        first, most = self.first_step.astype(size.dtype), self.max_first_step.astype(size.dtype)
        return -gradient * jnp.minimum(first, most / jnp.where(size > 0, size, jnp.ones_like(size)))

    def _learn_from_move(self, point, gradient, state: TwinKrylovState):
        """The memory with the last move in place of the oldest one, the newest change, and the slopes."""
        move, change = point - state.players, gradient - state.gradient
        slot = jnp.arange(self.memory) == state.learned % self.memory
        keep = jnp.where(slot, 0, 1).astype(gradient.dtype)[:, None]
        moves, changes = keep * state.moves, keep * state.changes  # without the oldest, in whose place it comes
        q, p = change, move
        for _ in range(2):  # once more: in finite precision one pass does not leave them orthogonal
            overlap = changes @ q
            q, p = q - overlap @ changes, p - overlap @ moves
        size, move_size, change_size = _norm(q), _norm(move), _norm(change)
        eps = jnp.finfo(gradient.dtype).eps
        # A change that past ones explain teaches nothing, nor does one that may be rounding: all rows stay.
        use = (state.count > 0) & (size > eps**0.5 * change_size)
        use = use & (change_size > 100 * eps * state.slope * _norm(point))
        safe = jnp.where(use, size, jnp.ones_like(size))
        row = 1 - keep
        moves = jnp.where(use, moves + row * (p / safe)[None], state.moves)
        changes = jnp.where(use, changes + row * (q / safe)[None], state.changes)
        last = jnp.where(
            (state.count > 0) & (move_size > 0),
            change_size / jnp.where(move_size > 0, move_size, jnp.ones_like(move_size)),
            jnp.zeros_like(size),
        )
        newest = jnp.where(use, q / safe, state.latest)
        learned = state.learned + use.astype(state.learned.dtype)
        return moves, changes, newest, jnp.maximum(state.slope, last), last, learned


def _ravel(tree: PyTree, dtype: Any) -> Float[Array, " n"]:
    return jnp.concatenate([x.astype(dtype).ravel() for x in jax.tree.leaves(tree)])


def _norm(x: Float[Array, " n"]) -> Float[Array, ""]:
    """The Euclidean norm, with the derivative 0 at 0."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, jnp.ones_like(square))), jnp.zeros_like(square))


def _ratio(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    """`a / b`, and 0 where `b` is 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, jnp.ones_like(b)), jnp.zeros_like(a))


def _log_ratio(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    """The logarithm of `a / b`, cut to [-3, 3]; 0 where one of them is 0."""
    ratio = _ratio(a, b)
    return jnp.where(ratio > 0, jnp.clip(jnp.log(jnp.where(ratio > 0, ratio, jnp.ones_like(a))), -3, 3), 0 * ratio)


def _cosine(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    return _ratio(jnp.sum(a * b), _norm(a) * _norm(b))


def _features(gradient, rest, latest, seen, state: TwinKrylovState, split: int, memory: int):
    """The inputs of both networks; see `TwinKrylov`."""
    move, change, slope, last_slope = jax.tree.map(lambda x: jnp.where(state.count > 0, x, jnp.zeros_like(x)), seen)
    size, left = _norm(gradient), _norm(rest)
    filled = jnp.minimum(state.learned, memory).astype(gradient.dtype) / memory
    shared = [
        _log_ratio(left, size),
        _log_ratio(size, jnp.where(state.count > 0, _norm(state.gradient), jnp.zeros_like(size))),
        _cosine(move, change),
        _log_ratio(last_slope, slope),
        filled,
    ]
    columns = []
    for own in (slice(None, split), slice(split, None)):
        mine = [
            _ratio(_norm(rest[own]), left),
            _ratio(_norm(gradient[own]), size),
            _norm(latest[own]),
            _cosine(rest[own], latest[own]),
            _cosine(move[own], change[own]),
        ]
        columns.append(jnp.stack(shared + mine))
    return columns


def _per_coordinate(outputs, k: int, split: int, like: Float[Array, " n"]) -> Float[Array, " n"]:
    """Output `k` of each player's network at all coordinates of that player."""
    return jnp.where(jnp.arange(like.size) < split, outputs[0][k], outputs[1][k])
