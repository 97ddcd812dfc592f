"""L2O-Scale: the hierarchical recurrent optimizer of Wichrowska et al. (2017)."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count
from .._gradients import evaluate_losses, joint_gradient
from .._optimizer import AbstractGradientOptimizer, Cost, StepInfo, apply_updates
from .._problem import AbstractProblem, Players, Sample
from .._tree import check_same_structure, common_dtype, with_static
from ._base import AbstractLearnedOptimizer, unravel_like
from ._hierarchical_network import Direction, HierarchicalNetwork

_BOUND = 33.0  # of logarithms of step lengths


class HierarchicalState(eqx.Module):
    """State of a `HierarchicalRNN`: that of the n coordinates of all tensors, one tensor after the other, and above.

    - `hidden`: of the cell of every coordinate.
    - `scale_decay`, `input_decay`: decays of the next step.
    - `log_rate`: logarithms of the step lengths.
    - `means`, `squares`: running means of the gradient, and of their squares, at every time scale.
    - `summaries`: hidden states of the cells of the tensors.
    - `overall`: hidden state of the cell over all tensors.
    """

    hidden: Float[Array, "hidden n"]
    scale_decay: Float[Array, " n"]
    input_decay: Float[Array, " n"]
    log_rate: Float[Array, " n"]
    means: Float[Array, "scales n"]
    squares: Float[Array, "scales n"]
    summaries: Float[Array, "tensor_hidden tensors"]
    overall: Float[Array, "overall_hidden 1"]


class _Move(eqx.Module):
    """A step before it is taken: the network's outputs for the coordinates of all tensors."""

    hidden: Float[Array, "hidden n"]
    scaled: Float[Array, "scales n"]
    direction: Float[Array, " n"]
    log_rate: Float[Array, " n"]  # before the offset


class HierarchicalRNN(AbstractLearnedOptimizer, AbstractGradientOptimizer):
    r"""L2O-Scale: recurrent cells for every coordinate, every tensor, and all tensors, each biased by those above it.

    A step moves every coordinate by $-e^{q_i - 1} d_i$: a direction $d$ of unit root mean square over each tensor, and
    a learned step length per coordinate, which the network moves up and down. The inputs are the gradient's running
    means at four time scales, each twice the one before, divided by running root mean squares: $s_k =
    \operatorname{asinh}(\bar g_k / \sqrt{\overline{g^2}_k})$; products of neighbouring ones; logarithms of the mean
    squares, relative to their mean over the scales; and the logarithm of the step length, relative to its mean. So it
    is invariant to the scale of the loss (as long as $|g| \gg 10^{-6}$) and equivariant to permutations of the
    coordinates of a tensor. The decays of the running means are outputs of the network too, and so is the direction: a
    read-out of the coordinate's hidden state plus a learned combination of the $s_k$.

    8,349 meta-parameters; 21 floats of state per coordinate. Every array of the players is a tensor.

    **Arguments:**

    - `hidden_sizes`: units of the cells of a coordinate, a tensor, and all tensors. Default (10, 20, 20).
    - `num_scales`: time scales. Default 4.
    - `rates`: range of the initial step lengths, in units of the players. Default (1e-6, 1e-2). They are drawn at
      random, log-uniformly, half of the logarithm per coordinate and half per tensor: by the key of a run in
      `nestax.solve` and in training, always alike in `as_optax`, whose `init` has no key.
    - `own_rate_mean`: relate the step lengths to their mean over the tensor instead of over all tensors. Default false,
      as in the published runs.
    - `last_tensor_only`: the cell over all tensors reads the last tensor's state alone, as the published code does,
      instead of the mean over the tensors. Default false.
    - `second_derivatives`: differentiate the meta-loss through the gradients too. Default false, as in Chen et al.
      (2020); Wichrowska's script allows them.
    - `key`: draws the initial weights.

    With attention to another point than the iterate: `AttendedHierarchicalRNN`.

    **Raises** `ValueError` for sizes below 1, fewer than two time scales, and a range that is not increasing.

    **Source:** Wichrowska et al., "Learned optimizers that scale and generalize", ICML 2017; the authors' code for
    constants that the paper leaves out. **Deviation:** see `last_tensor_only`.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.HierarchicalRNN(key=jax.random.key(0))  # not trained
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> solution = nx.solve(problem, optimizer, num_steps=5, key=jax.random.key(1))

    ```
    """

    network: HierarchicalNetwork
    hidden_sizes: tuple[int, int, int] = eqx.field(static=True)
    num_scales: int = eqx.field(static=True)
    rates: tuple[float, float] = eqx.field(static=True)
    own_rate_mean: bool = eqx.field(static=True)
    last_tensor_only: bool = eqx.field(static=True)
    second_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden_sizes: tuple[int, int, int] = (10, 20, 20),
        num_scales: int = 4,
        rates: tuple[float, float] = (1e-6, 1e-2),
        own_rate_mean: bool = False,
        last_tensor_only: bool = False,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        a, b, c = (count(size, "hidden_sizes") for size in hidden_sizes)
        low, high = (float(rate) for rate in rates)
        if not 0 < low <= high < math.inf:
            raise ValueError(f"`rates` must be a range (lowest, highest) of positive numbers, got ({low:g}, {high:g}).")
        self.hidden_sizes, self.num_scales, self.rates = (a, b, c), count(num_scales, "num_scales", 2), (low, high)
        self.network = HierarchicalNetwork(self.hidden_sizes, self.num_scales, key=key)
        self.own_rate_mean, self.last_tensor_only = own_rate_mean, last_tensor_only
        self.second_derivatives = second_derivatives

    def meta_parameters(self) -> PyTree[bool]:
        return jax.tree.map(eqx.is_inexact_array, self)

    def config(self) -> dict[str, Any]:
        return {
            "hidden_sizes": list(self.hidden_sizes),
            "num_scales": self.num_scales,
            "rates": list(self.rates),
            "own_rate_mean": self.own_rate_mean,
            "last_tensor_only": self.last_tensor_only,
            "second_derivatives": self.second_derivatives,
        }

    # Overrides the default, since its first step lengths are random.
    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> HierarchicalState:
        del problem
        return self._init(players, key)

    def init_update(self, params: PyTree) -> HierarchicalState:
        return self._init(params, jax.random.key(0))

    def _init(self, params: PyTree, key: PRNGKeyArray) -> HierarchicalState:
        leaves = jax.tree.leaves(params)
        dtype = common_dtype(params, jnp.float32)
        network = self._cast(dtype)
        low, high = (math.log(rate) / 2 for rate in self.rates)
        rates = []
        for leaf, k in zip(leaves, jax.random.split(key, len(leaves))):
            own_key, shared_key = jax.random.split(k)
            # drawn in float32, so that a seed means the same in every precision
            rate = jax.random.uniform(own_key, (leaf.size,), jnp.float32, low, high)
            rates.append((rate + jax.random.uniform(shared_key, (), jnp.float32, low, high)).astype(dtype))
        log_rate = jnp.clip(jnp.concatenate(rates), -_BOUND, _BOUND)
        # buffers of their own, so that the state can be donated
        (first, second), sizes = (jnp.zeros(log_rate.size, dtype) for _ in range(2)), (self.num_scales, log_rate.size)
        means, squares = (jnp.zeros(sizes, dtype) for _ in range(2))
        hidden, summaries, overall = (
            jnp.tile(start[:, None], num)
            for start, num in (
                (network.coordinate_start, log_rate.size),
                (network.tensor_start, len(leaves)),
                (network.overall_start, 1),
            )
        )
        return HierarchicalState(hidden, first, second, log_rate, means, squares, summaries, overall)

    def exact(self) -> "HierarchicalRNN":
        return with_static(self, second_derivatives=True)

    def update(
        self, gradients: PyTree, state: HierarchicalState, params: PyTree, **extra: Any
    ) -> tuple[PyTree, HierarchicalState]:
        del extra
        check_same_structure(gradients, params, "gradients")
        move, state = self.move(gradients, state)
        return unravel_like(self.displacement(move), params), state

    def move(self, gradients: PyTree, state: HierarchicalState) -> tuple[_Move, HierarchicalState]:
        """The network's outputs, and the next state."""
        dtype = common_dtype(gradients, jnp.float32)
        leaves, network = jax.tree.leaves(gradients), self._cast(dtype)
        gradient = jnp.concatenate([x.astype(dtype).ravel() for x in leaves])
        gradient = gradient if self.second_derivatives else jax.lax.stop_gradient(gradient)
        sizes = [x.size for x in leaves]
        if self.own_rate_mean:
            mean_log_rate = _spread(_means(state.log_rate[None], sizes), sizes)[0]
        else:
            mean_log_rate = state.log_rate.mean()
        return _advance(network, gradient, state, mean_log_rate, sizes, slice(-1 if self.last_tensor_only else 0, None))

    def displacement(self, move: _Move) -> Float[Array, " n"]:
        """The step that the outputs stand for."""
        return -jnp.exp(move.log_rate + self.network.offset.astype(move.log_rate.dtype)) * move.direction

    def _cast(self, dtype: Any) -> HierarchicalNetwork:
        return jax.tree.map(lambda x: x.astype(dtype), self.network)


def _advance(
    network: HierarchicalNetwork,
    gradient: Float[Array, " n"],
    old: HierarchicalState,
    mean_log_rate: Float[Array, "*n"],
    sizes: list[int],
    read: slice,
) -> tuple[_Move, HierarchicalState]:
    """One step of all tensors, of so many coordinates each. Coordinatewise operations are on all of them at once: a
    program with a copy per tensor takes as many times longer to compile."""
    decays = [old.input_decay]
    while len(decays) < old.means.shape[0]:
        decays.append(_root(decays[-1]))  # twice the time scale
    decay = jnp.stack(decays)
    means = (1 - decay) * gradient[None] + decay * old.means
    started = jnp.any(old.squares != 0, axis=1, keepdims=True)
    keep = jnp.where(started, old.scale_decay[None], jnp.zeros_like(old.squares))
    squares = (1 - keep) * (means**2 + 1e-12) + keep * old.squares

    scaled = jnp.arcsinh(means / jnp.sqrt(squares + 1e-16))
    logs = jnp.log(squares + 1e-16)
    relative_rate = (old.log_rate - mean_log_rate)[None]
    features = jnp.concatenate(
        [scaled, scaled[:-1] * scaled[1:], logs - logs.mean(axis=0, keepdims=True), relative_rate]
    )

    bias = network.tensor_to_coordinate(old.summaries) + network.overall_to_coordinate(old.overall)
    hidden = network.coordinate(features, old.hidden, _spread(bias, sizes))
    rows = _means(jnp.concatenate([hidden, features]), sizes)
    summaries = network.tensor(rows, old.summaries, network.overall_to_tensor(old.overall))
    overall = network.overall(summaries[:, read].mean(axis=1, keepdims=True), old.overall)

    wanted = old.log_rate + network.log_rate(hidden)
    wanted = wanted + jax.lax.stop_gradient(jnp.clip(wanted, -_BOUND, _BOUND) - wanted)  # clipped in value alone
    inertia = jax.nn.sigmoid(network.inertia)
    new = HierarchicalState(
        hidden,
        jax.nn.sigmoid(network.scale_decay(hidden)),
        jax.nn.sigmoid(network.input_decay(hidden)),
        inertia * old.log_rate + (1 - inertia) * wanted,
        means,
        squares,
        summaries,
        overall,
    )
    return _Move(hidden, scaled, _unit(network.direction(hidden, scaled), sizes), wanted), new


def _means(x: Float[Array, "rows n"], sizes: list[int]) -> Float[Array, "rows tensors"]:
    """The mean over every tensor."""
    ends = list(itertools.accumulate(sizes))
    return jnp.stack([x[:, end - size : end].mean(axis=1) for size, end in zip(sizes, ends)], axis=1)


def _spread(x: Float[Array, "rows tensors"], sizes: list[int]) -> Float[Array, "rows n"]:
    """What every tensor has, for each of its coordinates."""
    return jnp.concatenate([jnp.broadcast_to(x[:, i, None], (len(x), size)) for i, size in enumerate(sizes)], axis=1)


def _unit(d: Float[Array, " n"], sizes: list[int]) -> Float[Array, " n"]:
    """With unit root mean square over every tensor."""
    return d / _spread(jnp.sqrt(_means((d**2)[None], sizes) + 1e-16), sizes)[0]


def _root(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, jnp.ones_like(x))), jnp.zeros_like(x))


class AttendedState(eqx.Module):
    """State of an `AttendedHierarchicalRNN`: that of the network, and the point where it looks."""

    inner: HierarchicalState
    attended: Players


class AttendedHierarchicalRNN(AbstractLearnedOptimizer):
    r"""L2O-Scale with attention: gradients are taken at a point $\psi$ that the network chooses, losses at the iterate.

    $\psi_{t+1} = \theta_t - e^q \odot d^a$, with a direction $d^a$ of its own read-outs, which start as copies of those
    of the update's direction: 8,363 meta-parameters. A step costs one gradient and one further loss.

    **Arguments:** as `HierarchicalRNN`.

    **Source:** Wichrowska et al. (ICML 2017), section 3; off in the released run script.
    """

    rnn: HierarchicalRNN
    attention: Direction

    def __init__(
        self,
        hidden_sizes: tuple[int, int, int] = (10, 20, 20),
        num_scales: int = 4,
        rates: tuple[float, float] = (1e-6, 1e-2),
        own_rate_mean: bool = False,
        last_tensor_only: bool = False,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        self.rnn = HierarchicalRNN(
            hidden_sizes, num_scales, rates, own_rate_mean, last_tensor_only, second_derivatives, key=key
        )
        self.attention = self.rnn.network.direction

    def meta_parameters(self) -> PyTree[bool]:
        return jax.tree.map(eqx.is_inexact_array, self)

    def config(self) -> dict[str, Any]:
        return self.rnn.config()

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> AttendedState:
        return AttendedState(self.rnn.init(problem, players, key), players)

    def step(
        self, problem: AbstractProblem, players: Players, state: AttendedState, samples: Sample
    ) -> tuple[Players, AttendedState, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses = jnp.stack(evaluate_losses(problem, players, sample))
        _, gradients = joint_gradient(problem, state.attended, sample)
        move, inner = self.rnn.move(gradients, state.inner)
        attention = jax.tree.map(lambda x: x.astype(move.log_rate.dtype), self.attention)
        look = _unit(attention(move.hidden, move.scaled), [x.size for x in jax.tree.leaves(players)])
        attended = apply_updates(players, unravel_like(-jnp.exp(move.log_rate) * look, players))
        players = apply_updates(players, unravel_like(self.rnn.displacement(move), players))
        return players, AttendedState(inner, attended), StepInfo(losses, Cost(gradients=1, losses=1))
