"""The network of the learned minimax optimizers: LSTM layers with several outputs, drawn as PyTorch draws them."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._network import LSTMCell

State = tuple[Float[Array, "n _"], Float[Array, "n _"]]  # h and c; layers may differ in size


class TwinNetwork(eqx.Module):
    r"""LSTM layers and a linear read-out of `num_outputs` numbers, for n coordinates at once.

    Every array is a meta-parameter, drawn from $U(-1/\sqrt H, 1/\sqrt H)$ with the hidden size $H$ of its layer, as
    PyTorch does by default. PyTorch's two biases per layer are drawn and added up: the same functions with one array
    less; and the constant 1 that `LSTMCell` adds to the forget gate is taken off the draw, so that it starts where
    PyTorch does.

    **Arguments:** `num_features`: inputs per coordinate. `hidden_sizes`: units of each layer. `num_outputs`: numbers
    per coordinate. `key`: draws the weights. `dtype`: of the weights; default JAX's default float dtype.
    """

    cells: tuple[LSTMCell, ...]
    readout_weight: Float[Array, "outputs hidden"]
    readout_bias: Float[Array, " outputs"]
    hidden_sizes: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        num_features: int,
        hidden_sizes: tuple[int, ...],
        num_outputs: int,
        *,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        if not hidden_sizes:
            raise ValueError("`hidden_sizes` must name at least one layer.")
        dtype = jnp.result_type(float) if dtype is None else dtype
        weight_key, bias_key, *cell_keys = jax.random.split(key, 2 + len(hidden_sizes))
        sizes = (num_features, *hidden_sizes)
        self.cells = tuple(_cell(a, b, k, dtype) for a, b, k in zip(sizes[:-1], sizes[1:], cell_keys))
        self.readout_weight = _uniform(weight_key, (num_outputs, sizes[-1]), sizes[-1], dtype)
        self.readout_bias = _uniform(bias_key, (num_outputs,), sizes[-1], dtype)
        self.hidden_sizes = tuple(hidden_sizes)

    def init_state(self, n: int, dtype: Any) -> tuple[State, ...]:
        """Zero state of `n` coordinates: per layer `(h, c)`, each (n, hidden)."""
        return tuple((jnp.zeros((n, size), dtype), jnp.zeros((n, size), dtype)) for size in self.hidden_sizes)

    def __call__(
        self, features: Float[Array, "features n"], state: tuple[State, ...]
    ) -> tuple[Float[Array, "outputs n"], tuple[State, ...]]:
        """One step for n coordinates: `(outputs, state)`.

        A row per coordinate: these networks see many small games at once (`vmap`), and so a batch of them is one
        product without a transposition.
        """
        x, new = features.T, []
        for cell, (h, c) in zip(self.cells, state):
            weight, bias = cell.folded()
            i, j, f, o = jnp.split(jnp.concatenate([x, h], axis=1) @ weight.T + bias[None], 4, axis=1)
            c = (0.5 + 0.5 * jnp.tanh(f)) * c + (0.5 + 0.5 * jnp.tanh(i)) * jnp.tanh(j)
            x = (0.5 + 0.5 * jnp.tanh(o)) * jnp.tanh(c)
            new.append((x, c))
        return self.readout_weight @ x.T + self.readout_bias[:, None], tuple(new)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], size: int, dtype: Any) -> Array:
    bound = 1 / math.sqrt(size)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _cell(input_size: int, hidden_size: int, key: PRNGKeyArray, dtype: Any) -> LSTMCell:
    weight_key, *bias_keys = jax.random.split(key, 3)
    gates = 4 * hidden_size
    weight = _uniform(weight_key, (gates, input_size + hidden_size), hidden_size, dtype)
    bias = _uniform(bias_keys[0], (gates,), hidden_size, dtype) + _uniform(bias_keys[1], (gates,), hidden_size, dtype)
    bias = bias.at[2 * hidden_size : 3 * hidden_size].add(-1)  # rows of the forget gate
    blank = LSTMCell(input_size, hidden_size, dtype, key=key)
    return eqx.tree_at(lambda c: (c.weight, c.bias), blank, (weight, bias))
